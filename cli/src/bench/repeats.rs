//! Rows beyond those of the file: its rows again, each somewhere close by.
//!
//! Owns the noise. Invariants: rows of the file are as they are; where one beyond them
//! lies depends on its number and the noise alone, so that every run and every number of
//! writers writes the same; it costs an addition a component, since the clock runs.
//! Must not know: where rows go.

use super::random::Random;

/// Places in the table at which the noise of a row may begin.
const PLACES: usize = 1 << 16;

/// The noise.
#[derive(Default)]
pub(super) struct Repeats {
    /// What is added: any run of as many components as a row has. Empty: rows are
    /// repeated as they are.
    table: Vec<f32>,
}

impl Repeats {
    /// Moves each row by about `share` of the length that rows have in the mean.
    pub(super) fn new(share: f64, mean_length: f64, dimension: u32) -> Self {
        if share == 0.0 {
            return Self::default();
        }
        // A component of a run has a third of the square of the most in the mean.
        let most = share * mean_length * (3.0 / f64::from(dimension)).sqrt();
        let mut random = Random::new(1);
        let mut component = || (random.signed_unit() * most) as f32;
        Self {
            table: (0..PLACES + dimension as usize)
                .map(|_| component())
                .collect(),
        }
    }

    /// The vector of a row that is not of the file, out of the file's row that it repeats.
    pub(super) fn of<'a>(&self, row: u64, vector: &'a [f32], moved: &'a mut Vec<f32>) -> &'a [f32] {
        // The upper bits of the product (Knuth, TAOCP 3, 6.4): near rows begin far apart.
        let place = row.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 48;
        let Some(noise) = self.table.get(place as usize..) else {
            return vector;
        };
        if noise.len() < vector.len() {
            return vector;
        }
        moved.clear();
        moved.extend(vector.iter().zip(noise).map(|(x, y)| x + y));
        moved
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repeat_lies_as_far_off_as_is_asked_for_and_each_elsewhere() {
        let vector = vec![3.0f32; 128];
        let repeats = Repeats::new(0.1, 50.0, 128);
        let of = |row| repeats.of(row, &vector, &mut Vec::new()).to_vec();
        let length = |row: u64| {
            let moved = of(row).into_iter().zip(&vector);
            let squares: f32 = moved.map(|(x, y)| (x - y) * (x - y)).sum();
            f64::from(squares).sqrt()
        };
        let mean = (0..1000).map(length).sum::<f64>() / 1000.0;
        assert!((mean - 5.0).abs() < 0.2, "{mean}");
        assert_eq!(of(77), of(77));
        assert_ne!(of(77), of(78));
    }

    #[test]
    fn without_noise_a_row_is_repeated_as_it_is() {
        let vector = [1.0, 2.0];
        let repeats = Repeats::new(0.0, 50.0, 2);
        assert_eq!(repeats.of(9, &vector, &mut Vec::new()), vector);
    }
}
