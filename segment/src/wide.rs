//! Loops compiled for the widest instructions that this processor has.
//!
//! A build for any x86-64 takes four numbers at a time; most processors can take
//! eight or sixteen. Owns the choice, made at run time. Invariant: the very bits that
//! the plain loop gives, because comparisons, additions and products are the same at
//! any width, and none is merged with another. Must not know: what the loops are for.
#![allow(
    unsafe_code,
    reason = "calls of what was compiled for more than the baseline"
)]

/// A loop. Whatever it calls must be inlined into `run`, or stays as narrow as before.
pub(crate) trait Loop {
    /// What comes of it.
    type Output;

    /// Does it; always `#[inline(always)]`.
    fn run(self) -> Self::Output;
}

/// Runs a loop as wide as this processor can. Worth it for some hundred numbers or
/// more: the loop itself is not inlined at the caller's.
#[inline]
pub(crate) fn widest<L: Loop>(work: L) -> L::Output {
    #[cfg(target_arch = "x86_64")]
    {
        let all = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl");
        if all {
            // SAFETY: the processor has what `sixteen` is compiled for, as was just asked.
            return unsafe { sixteen(work) };
        }
        if is_x86_feature_detected!("avx2") {
            // SAFETY: the processor has what `eight` is compiled for, as was just asked.
            return unsafe { eight(work) };
        }
    }
    work.run()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn sixteen<L: Loop>(work: L) -> L::Output {
    work.run()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn eight<L: Loop>(work: L) -> L::Output {
    work.run()
}

#[cfg(test)]
mod tests {
    use super::{Loop, widest};

    struct Sums<'a>(&'a [f32], &'a [f32]);

    impl Loop for Sums<'_> {
        type Output = [f32; 16];

        #[inline(always)]
        fn run(self) -> [f32; 16] {
            let mut sums = [0.0; 16];
            for (a, b) in self.0.chunks_exact(16).zip(self.1.chunks_exact(16)) {
                for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
                    *sum += a * b;
                }
            }
            sums
        }
    }

    #[test]
    fn the_width_changes_no_bit() {
        let numbers = |step: u32| -> Vec<f32> {
            (0..1600u32)
                .map(|n| (n * step % 1009) as f32 / 777.0)
                .collect()
        };
        let (a, b) = (numbers(577), numbers(331));
        let bits = |sums: [f32; 16]| sums.map(f32::to_bits);
        let plain = bits(Sums(&a, &b).run());
        assert_eq!(bits(widest(Sums(&a, &b))), plain);
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") {
            // SAFETY: the processor has what `eight` is compiled for, as was just asked.
            assert_eq!(bits(unsafe { super::eight(Sums(&a, &b)) }), plain);
        }
    }
}
