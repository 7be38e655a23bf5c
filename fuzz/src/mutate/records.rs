//! Inputs of records that all have one length, behind a head.
//!
//! Owns what can be done with whole records. Invariant: what is behind the last whole
//! record goes. Must not know: what a record means.

use super::Mutation;

/// Changes records of `len` bytes, or the head.
pub(super) fn change(m: &mut Mutation, head: usize, len: usize) {
    if m.bytes.len() < head {
        m.bytes.resize(head, 0);
    }
    for _ in 0..=m.below(3) {
        let count = (m.bytes.len() - head) / len;
        m.bytes.truncate(head + count * len);
        let n = m.below(count + 1);
        let at = head + n * len;
        let there = n < count;
        match m.below(8) {
            0 | 1 if at + len <= m.most => {
                let new: Vec<u8> = (0..len).map(|_| m.below(256) as u8).collect();
                m.bytes.splice(at..at, new);
            }
            2 if count > 0 && m.bytes.len() + len <= m.most => {
                let from = head + m.below(count) * len;
                let copy = m.bytes[from..from + len].to_vec();
                m.bytes.splice(at..at, copy);
            }
            3 if there => drop(m.bytes.drain(at..at + len)),
            4 if there => {
                let other = head + m.below(count) * len;
                for i in 0..len {
                    m.bytes.swap(at + i, other + i);
                }
            }
            5 | 6 if there => m.plain_in(at..at + len, len),
            7 if head > 0 => m.set_in(0..head),
            _ if there => m.set_in(at..at + len),
            _ => {}
        }
        // The fuzzer may have made it shorter.
        if m.bytes.len() < head {
            m.bytes.resize(head, 0);
        }
    }
}
