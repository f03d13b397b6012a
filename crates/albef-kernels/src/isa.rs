//! What the processor offers, found out once.

use std::sync::OnceLock;

/// A set of instructions for which there are kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Isa {
    /// Any processor.
    Portable,
    /// x86-64 with AVX2 and FMA.
    Avx2,
    /// x86-64 with AVX-512 (F, BW, DQ, VL).
    Avx512,
}

/// The values of `ALBEF_ISA`.
const NAMED: [(&str, Isa); 3] =
    [("portable", Isa::Portable), ("avx2", Isa::Avx2), ("avx512", Isa::Avx512)];

/// The best set that this processor has; `ALBEF_ISA` (`portable`, `avx2`, `avx512`) can lower it.
#[must_use]
pub fn detected() -> Isa {
    static FOUND: OnceLock<Isa> = OnceLock::new();
    *FOUND.get_or_init(|| {
        let given = std::env::var_os("ALBEF_ISA");
        let limit = NAMED.iter().find(|(name, _)| given.as_ref().is_some_and(|g| g == name));
        available().min(limit.map_or(Isa::Avx512, |(_, isa)| *isa))
    })
}

/// The value of `ALBEF_ISA` if it names no set, which [`detected`] ignores, in a sentence.
#[must_use]
pub fn unknown_isa() -> Option<String> {
    let given = std::env::var_os("ALBEF_ISA").filter(|v| !v.is_empty())?;
    let known = NAMED.iter().any(|(name, _)| given == *name);
    let names = NAMED.map(|(name, _)| format!("`{name}`")).join(", ");
    (!known).then(|| format!("`ALBEF_ISA` is {given:?}; it may be {names}"))
}

#[cfg(target_arch = "x86_64")]
fn available() -> Isa {
    let wide = is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl");
    if !(is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")) {
        Isa::Portable
    } else if wide {
        Isa::Avx512
    } else {
        Isa::Avx2
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn available() -> Isa {
    Isa::Portable
}

/// Instructions that kernels are written for, and whether this processor has them. Which are used is
/// [`detected`], for bf16 [`crate::bf16_unit`].
#[must_use]
pub fn features() -> Vec<(&'static str, bool)> {
    #[cfg(target_arch = "x86_64")]
    {
        vec![
            ("avx2", is_x86_feature_detected!("avx2")),
            ("fma", is_x86_feature_detected!("fma")),
            ("avx512f", is_x86_feature_detected!("avx512f")),
            ("avx512bw", is_x86_feature_detected!("avx512bw")),
            ("avx512dq", is_x86_feature_detected!("avx512dq")),
            ("avx512vl", is_x86_feature_detected!("avx512vl")),
            ("avx512bf16", is_x86_feature_detected!("avx512bf16")),
        ]
    }
    #[cfg(not(target_arch = "x86_64"))]
    Vec::new()
}

/// Compiles one body for each set of instructions and runs the best that the processor has.
macro_rules! for_each_isa {
    ($(#[$doc:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$doc])*
        $vis fn $name($($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            fn body($($arg: $ty),*) $(-> $ret)? $body

            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
                fn avx512($($arg: $ty),*) $(-> $ret)? { body($($arg),*) }
                #[target_feature(enable = "avx2,fma")]
                fn avx2($($arg: $ty),*) $(-> $ret)? { body($($arg),*) }
                match $crate::isa::detected() {
                    // SAFETY: the processor has been found to offer these instructions.
                    $crate::isa::Isa::Avx512 => return unsafe { avx512($($arg),*) },
                    // SAFETY: as above.
                    $crate::isa::Isa::Avx2 => return unsafe { avx2($($arg),*) },
                    $crate::isa::Isa::Portable => {}
                }
            }
            body($($arg),*)
        }
    };
}
pub(crate) use for_each_isa;
