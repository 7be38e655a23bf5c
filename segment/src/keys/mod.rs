//! The key table of a segment: sorted leaves, fences over them, and a filter.
//!
//! Owns how keys are coded and searched. Invariant: finding a key touches one
//! leaf, whatever the number of rows. Must not know: files, checksums, values.

mod fence;
mod filter;
mod leaf;

pub(crate) use fence::{FenceWriter, Fences};
pub(crate) use filter::{FILTER_BLOCK_LEN, FilterBlock, FilterBuilder};
pub(crate) use leaf::{Leaf, LeafBuilder, MAX_LEAF_LEN};

/// Length of the common prefix of two keys.
fn common_prefix(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(x, y)| x == y).count()
}
