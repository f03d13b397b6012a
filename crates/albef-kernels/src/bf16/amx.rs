//! Products in tile registers. The instructions are written as assembly, since the compiler's
//! functions for them are not stable.

use std::arch::asm;
use std::marker::PhantomData;

use super::product::{BLOCK, Square};

/// Whether the processor has tiles for bf16 and the system lets this process use them.
pub(super) fn permitted() -> bool {
    tiles_exist() && granted()
}

fn tiles_exist() -> bool {
    let leaf = std::arch::x86_64::__cpuid_count(7, 0);
    let (bf16, tile) = (leaf.edx >> 22 & 1, leaf.edx >> 24 & 1);
    bf16 == 1 && tile == 1
}

/// Asks the system for the tile registers' state, which it does not save unasked.
#[cfg(target_os = "linux")]
fn granted() -> bool {
    const ARCH_PRCTL: i64 = 158;
    const REQUEST_STATE: u64 = 0x1023;
    const TILE_DATA: u64 = 18;
    let answer: i64;
    // SAFETY: the call changes nothing but this process's permission.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") ARCH_PRCTL => answer,
            in("rdi") REQUEST_STATE,
            in("rsi") TILE_DATA,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    answer == 0
}

#[cfg(not(target_os = "linux"))]
fn granted() -> bool {
    false
}

#[repr(C, align(64))]
struct Configuration {
    palette: u8,
    start: u8,
    reserved: [u8; 14],
    bytes_of_line: [u16; 16],
    lines: [u8; 16],
}

/// The tile registers of this thread, set up: eight tiles of 16 lines of 64 bytes.
pub(super) struct Tiles {
    /// Tiles belong to a thread.
    thread: PhantomData<*const ()>,
}

impl Tiles {
    /// # Safety
    /// [`permitted`] must have answered yes.
    pub(super) unsafe fn configured() -> Self {
        let mut c = Configuration {
            palette: 1,
            start: 0,
            reserved: [0; 14],
            bytes_of_line: [0; 16],
            lines: [0; 16],
        };
        c.bytes_of_line[..8].fill(64);
        c.lines[..8].fill(16);
        // SAFETY: the caller vouches for the unit; the configuration is a valid one.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const c, options(nostack, readonly)) };
        Self { thread: PhantomData }
    }

    /// `sums = left right` of one line of blocks.
    pub(super) fn product(&self, left: &[u32], right: &[u32], sums: &mut Square) {
        let blocks = left.len() / BLOCK;
        assert!(right.len() >= blocks * BLOCK, "product: factors of different length");
        if blocks == 0 {
            sums.0.fill(0.0);
            return;
        }
        // SAFETY: the tiles are configured; each turn of the loop reads one block of both factors,
        // and the result has room for four tiles.
        unsafe {
            asm!(
                "tilezero tmm0",
                "tilezero tmm1",
                "tilezero tmm2",
                "tilezero tmm3",
                "2:",
                "tileloadd tmm6, [{b} + {wide}*1]",
                "tileloadd tmm4, [{a} + {line}*1]",
                "tileloadd tmm7, [{b} + {wide}*1 + 64]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm5, [{a} + {line}*1 + 1024]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "add {a}, 2048",
                "add {b}, 2048",
                "dec {n}",
                "jnz 2b",
                "tilestored [{c} + {wide}*1], tmm0",
                "tilestored [{c} + {wide}*1 + 64], tmm1",
                "tilestored [{c} + {wide}*1 + 2048], tmm2",
                "tilestored [{c} + {wide}*1 + 2112], tmm3",
                a = inout(reg) left.as_ptr() => _,
                b = inout(reg) right.as_ptr() => _,
                n = inout(reg) blocks => _,
                c = in(reg) sums.0.as_mut_ptr(),
                line = in(reg) 64_usize,
                wide = in(reg) 128_usize,
                options(nostack),
            );
        }
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        // SAFETY: the tiles are in use by this thread only, and no longer.
        unsafe { asm!("tilerelease", options(nostack)) };
    }
}
