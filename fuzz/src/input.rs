//! Small numbers out of a fuzzer's bytes; zeros where they end.

/// The part of an input that is not used yet.
pub(crate) struct Input<'a>(pub(crate) &'a [u8]);

impl Input<'_> {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn take<const LEN: usize>(&mut self) -> [u8; LEN] {
        let (now, rest) = self.0.split_at(LEN.min(self.0.len()));
        self.0 = rest;
        let mut bytes = [0; LEN];
        bytes[..now.len()].copy_from_slice(now);
        bytes
    }

    pub(crate) fn u8(&mut self) -> u8 {
        u8::from_le_bytes(self.take())
    }

    pub(crate) fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.take())
    }

    pub(crate) fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }
}
