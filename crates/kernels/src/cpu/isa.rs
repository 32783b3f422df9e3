//! Which instructions the kernels use: chosen once, carried as a value that proves the processor has them.
//!
//! Each set's entry points have a module of their own. All kernels are inlined into them, and the compiler makes the code of a module
//! by one thread.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod avxvnni;
mod portable;

use super::integer::Wide;
use super::simd::Simd;

/// An instruction set that this processor has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Isa(Level);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// AVX2 with the 8-bit dot products of AVX-VNNI.
    #[cfg(target_arch = "x86_64")]
    AvxVnni,
    /// AVX-512 with VBMI and VNNI: processors that have the first without the others are served by AVX2.
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Level {
    /// Whether this processor has it.
    fn is_here(self) -> bool {
        match self {
            Self::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => {
                is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c")
            }
            #[cfg(target_arch = "x86_64")]
            Self::AvxVnni => Self::Avx2.is_here() && is_x86_feature_detected!("avxvnni"),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => {
                Self::Avx2.is_here()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vbmi")
                    && is_x86_feature_detected!("avx512vnni")
            }
        }
    }
}

/// A name that is no instruction set of this processor.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IsaError {
    /// No such name.
    #[error("{0:?} is not an instruction set\n\nhint: portable, avx2, avxvnni and avx512 are")]
    Unknown(String),
    /// The processor lacks it.
    #[error("this processor lacks {wanted}\n\nhint: its best here is {best}")]
    Missing {
        /// What was asked for.
        wanted: &'static str,
        /// What the processor has.
        best: &'static str,
    },
}

impl Isa {
    /// Plain code for any processor.
    pub const PORTABLE: Self = Self(Level::Portable);

    /// The best that this processor has.
    #[must_use]
    pub fn best() -> Self {
        Self::all().last().unwrap_or(Self::PORTABLE)
    }

    /// Every instruction set of this processor, the plainest first.
    pub fn all() -> impl Iterator<Item = Self> {
        LEVELS.iter().copied().filter(|level| level.is_here()).map(Self)
    }

    /// The instruction set called `portable`, `avx2`, `avxvnni` or `avx512`.
    ///
    /// # Errors
    /// [`IsaError`] where there is none of this name, or this processor lacks it.
    pub fn named(name: &str) -> Result<Self, IsaError> {
        let unknown = || IsaError::Unknown(name.to_owned());
        let wanted = LEVELS.iter().copied().map(Self).find(|isa| isa.name() == name).ok_or_else(unknown)?;
        if wanted.0.is_here() {
            Ok(wanted)
        } else {
            Err(IsaError::Missing { wanted: wanted.name(), best: Self::best().name() })
        }
    }

    /// `portable`, `avx2`, `avxvnni` or `avx512`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self.0 {
            Level::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Level::AvxVnni => "avxvnni",
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => "avx512",
        }
    }

    /// Runs a kernel compiled for this instruction set.
    #[inline(always)]
    pub(crate) fn run<K: Kernel>(self, kernel: K) -> K::Output {
        match self.0 {
            Level::Portable => portable::run(kernel),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `all` and `named` are the only sources of these levels: `is_here` saw the features.
            Level::Avx2 | Level::AvxVnni => unsafe { avx2::run(kernel) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Level::Avx512 => unsafe { avx512::run(kernel) },
        }
    }

    /// Runs a kernel over sixteen rows compiled for this instruction set.
    #[inline(always)]
    pub(crate) fn run_wide<K: WideKernel>(self, kernel: K) -> K::Output {
        match self.0 {
            Level::Portable => portable::run_wide(kernel),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `all` and `named` are the only sources of these levels: `is_here` saw the features.
            Level::Avx2 => unsafe { avx2::run_wide(kernel) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Level::AvxVnni => unsafe { avxvnni::run_wide(kernel) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Level::Avx512 => unsafe { avx512::run_wide(kernel) },
        }
    }
}

#[cfg(target_arch = "x86_64")]
const LEVELS: &[Level] = &[Level::Portable, Level::Avx2, Level::AvxVnni, Level::Avx512];
#[cfg(not(target_arch = "x86_64"))]
const LEVELS: &[Level] = &[Level::Portable];

/// Code that is written over [`Simd`] once and compiled for each instruction set.
///
/// `run` and all it calls must be `#[inline(always)]` down to the instructions: only what is inlined into the entry
/// point with the features is compiled with them. Closures cannot be marked so: instructions do not belong into them.
pub(crate) trait Kernel {
    /// What it gives.
    type Output;

    /// Computes with the instructions that `simd` proves.
    fn run<S: Simd>(self, simd: S) -> Self::Output;
}

/// The same over [`Wide`].
pub(crate) trait WideKernel {
    /// What it gives.
    type Output;

    /// Computes with the instructions that `w` proves.
    fn run<W: Wide>(self, w: W) -> Self::Output;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_find_what_the_processor_has() {
        for isa in Isa::all() {
            assert_eq!(Isa::named(isa.name()), Ok(isa));
        }
        assert_eq!(Isa::named("mmx"), Err(IsaError::Unknown("mmx".to_owned())));
        assert!(Isa::all().any(|isa| isa == Isa::best()));
    }
}
