use proptest::prelude::*;

use super::{Bytes, Isa, Packing, Table};

/// What follows a code in its stride; must change nothing.
const BEHIND: usize = 8;

fn sums(packing: Packing, isa: Isa, query: &[i8], codes: &[u8], rows: &[u32]) -> Vec<i32> {
    let stride = packing.bytes(query.len()) + BEHIND;
    let table = Table {
        bytes: codes,
        stride,
    };
    let mut sums = Vec::new();
    let query = Bytes::new(packing, query, isa);
    let missing = query.each(table, rows.iter().copied(), 3, |code, sum| {
        assert_eq!(code.len(), stride);
        sums.push(sum);
    });
    assert_eq!(missing, None);
    sums
}

fn unpacked(packing: Packing, code: &[u8], dimension: usize, i: usize) -> i32 {
    let half = dimension.div_ceil(2);
    i32::from(match packing {
        Packing::Bytes => code[i],
        Packing::Nibbles if i < half => code[i] & 15,
        Packing::Nibbles => code[i - half] >> 4,
        Packing::Bits => code[i / 8] >> (i % 8) & 1,
    })
}

fn any_packing() -> impl Strategy<Value = Packing> {
    prop_oneof![
        Just(Packing::Bytes),
        Just(Packing::Nibbles),
        Just(Packing::Bits)
    ]
}

proptest! {
    #[test]
    fn every_kernel_gives_the_sum_of_products(
        packing in any_packing(),
        query in proptest::collection::vec(-127i8..=127, 1..300),
        seed in any::<u64>(),
        rows in proptest::collection::vec(0u32..9, 0..20),
    ) {
        let stride = packing.bytes(query.len()) + BEHIND;
        let mut state = seed;
        let codes: Vec<u8> = (0..stride * 9).map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        }).collect();
        let want: Vec<i32> = rows.iter().map(|row| {
            let code = &codes[*row as usize * stride..][..stride];
            let products = query.iter().enumerate().map(|(i, q)| {
                unpacked(packing, code, query.len(), i) * i32::from(*q)
            });
            products.sum()
        }).collect();
        for isa in Isa::all() {
            let got = sums(packing, isa, &query, &codes, &rows);
            prop_assert_eq!(&got, &want, "{:?}", isa);
        }
    }
}

proptest! {
    #[test]
    fn a_query_made_of_a_code_is_that_of_its_components(
        old in proptest::collection::vec(-127i8..=127, 1..300),
        seed in any::<u64>(),
    ) {
        let mut state = seed;
        let code: Vec<u8> = old.iter().map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        }).collect();
        let new: Vec<i8> = code.iter().map(|c| (i32::from(*c) - 128) as i8).collect();
        for isa in Isa::all() {
            let mut made = Bytes::new(Packing::Bytes, &old, isa);
            let total = made.refill(&code);
            prop_assert_eq!(total, new.iter().map(|x| i32::from(*x)).sum::<i32>());
            let wanted = Bytes::new(Packing::Bytes, &new, isa);
            prop_assert_eq!(&made.components, &wanted.components, "{:?}", isa);
            prop_assert_eq!(made.refill(&[]), 0, "of another length");
        }
    }

    #[test]
    fn all_rows_of_a_table_at_once_have_the_same_sums(
        packing in any_packing(),
        query in proptest::collection::vec(-127i8..=127, 1..300),
        rows in 0usize..11,
        seed in any::<u64>(),
    ) {
        let stride = packing.bytes(query.len());
        let mut state = seed;
        let codes: Vec<u8> = (0..stride * rows).map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        }).collect();
        let products = |code: &[u8]| -> i32 {
            let products = query.iter().enumerate();
            products.map(|(i, q)| unpacked(packing, code, query.len(), i) * i32::from(*q)).sum()
        };
        let want: Vec<i32> = codes.chunks(stride).map(products).collect();
        for isa in Isa::all() {
            let mut got = vec![0; rows];
            Bytes::new(packing, &query, isa).all(&codes, &mut got);
            prop_assert_eq!(&got, &want, "{:?}", isa);
        }
    }
}

#[test]
fn the_largest_sums_do_not_wrap() {
    for sign in [127i8, -127] {
        let query = vec![sign; 65_535];
        let codes = vec![255u8; 65_535 + BEHIND];
        for isa in Isa::all() {
            let got = sums(Packing::Bytes, isa, &query, &codes, &[0]);
            assert_eq!(got, [i32::from(sign) * 255 * 65_535], "{isa:?}");
        }
    }
}

#[test]
fn a_row_that_is_not_there_is_named_and_not_read() {
    let codes = vec![7u8; (100 + BEHIND) * 3];
    for isa in Isa::all() {
        let query = Bytes::new(Packing::Bytes, &[1; 100], isa);
        let table = Table {
            bytes: &codes,
            stride: 100 + BEHIND,
        };
        let mut seen = 0;
        for missing in [3, u32::MAX] {
            let rows = [0, missing, 1];
            let named = query.each(table, rows.into_iter(), 16, |_, _| seen += 1);
            assert_eq!(named, Some(missing));
        }
        assert_eq!(seen, 2);
    }
}
