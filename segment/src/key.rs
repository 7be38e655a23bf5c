//! The caller's identifier of a row.
//!
//! Owns the in-memory form of a key: up to 22 bytes inline, longer ones shared,
//! so that a memtable of short keys makes no allocation per key and a clone
//! never copies a long one. Invariant: keys compare as their bytes do.
//! Must not know: how keys are encoded on disk.

use std::borrow::Borrow;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::Deref;
use std::sync::Arc;

/// Longest key in bytes; the length is a `u16` in every format.
pub const MAX_KEY_LEN: usize = 65_535;

const INLINE: usize = 22;

/// An owned key: 1 to [`MAX_KEY_LEN`] arbitrary bytes, ordered bytewise.
///
/// ```
/// use esker_segment::Key;
/// let a = Key::from("cat");
/// let b = Key::from_u64(7);
/// assert_eq!(&a[..], b"cat");
/// assert_eq!(b.as_u64(), Some(7));
/// assert!(Key::from_u64(255) < Key::from_u64(256), "big-endian keeps numeric order");
/// ```
#[derive(Clone)]
pub struct Key(Repr);

#[derive(Clone)]
enum Repr {
    Inline { len: u8, bytes: [u8; INLINE] },
    Shared(Arc<[u8]>),
}

impl Key {
    /// A key with these bytes. Length limits are checked where keys enter a database.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Self {
        let mut inline = [0; INLINE];
        match inline.get_mut(..bytes.len()) {
            Some(head) => {
                head.copy_from_slice(bytes);
                // At most INLINE, which fits u8.
                Self(Repr::Inline {
                    len: bytes.len() as u8,
                    bytes: inline,
                })
            }
            None => Self(Repr::Shared(bytes.into())),
        }
    }

    /// The eight big-endian bytes of `id`, so that keys order as the numbers do.
    #[must_use]
    pub fn from_u64(id: u64) -> Self {
        Self::new(&id.to_be_bytes())
    }

    /// The number that [`Key::from_u64`] made this key from, if it has eight bytes.
    #[must_use]
    pub fn as_u64(&self) -> Option<u64> {
        Some(u64::from_be_bytes(self.as_bytes().try_into().ok()?))
    }

    /// The key's bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        match &self.0 {
            Repr::Inline { len, bytes } => bytes.get(..usize::from(*len)).unwrap_or(bytes),
            Repr::Shared(bytes) => bytes,
        }
    }

    /// Heap bytes that this key holds, shared ones counted once per clone.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        match &self.0 {
            Repr::Inline { .. } => 0,
            Repr::Shared(bytes) => bytes.len() + 16,
        }
    }
}

impl Deref for Key {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        self.as_bytes()
    }
}

impl AsRef<[u8]> for Key {
    fn as_ref(&self) -> &[u8] {
        self.as_bytes()
    }
}

impl Borrow<[u8]> for Key {
    fn borrow(&self) -> &[u8] {
        self.as_bytes()
    }
}

impl From<&[u8]> for Key {
    fn from(bytes: &[u8]) -> Self {
        Self::new(bytes)
    }
}

impl From<&str> for Key {
    fn from(text: &str) -> Self {
        Self::new(text.as_bytes())
    }
}

impl From<u64> for Key {
    fn from(id: u64) -> Self {
        Self::from_u64(id)
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl Eq for Key {}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Key {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.as_bytes().cmp(other.as_bytes())
    }
}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_bytes().hash(state);
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key(\"{}\")", self.as_bytes().escape_ascii())
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.as_bytes().escape_ascii())
    }
}
