//! One product of matrices for all uses: `C = A B`, both with any strides.
//!
//! A kernel keeps a tile of the result in registers: 14 rows by 32 columns with AVX-512, 6 by 16 with
//! AVX2. Other processors use the `gemm` crate on the unpacked matrices.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod tiles;

use rayon::prelude::*;

use crate::bf16::{self, Precision, bf16_unit};
use crate::isa::{Isa, detected};
use crate::operands::{Finish, Strided};

fn reach(rows: usize, columns: usize, s: &Strided<'_>) -> bool {
    rows == 0 || columns == 0 || (rows - 1) * s.row + (columns - 1) * s.column < s.data.len()
}

/// `c[m][n] = finish(a[m][k] b[k][n])`.
pub(crate) fn multiply(
    a: Strided<'_>,
    b: Strided<'_>,
    [m, n, k]: [usize; 3],
    precision: Precision,
    finish: Finish<'_>,
    c: &mut [f32],
) {
    assert!(c.len() >= m * n, "product: result of {} for {m} x {n}", c.len());
    if m == 0 || n == 0 {
        return;
    }
    assert!(reach(m, k, &a), "product: the left matrix is too short");
    assert!(reach(k, n, &b), "product: the right matrix is too short");
    for (length, what) in [
        (finish.bias.map_or(n, <[f32]>::len), "bias"),
        (finish.residual.map_or(m * n, <[f32]>::len) / m, "residual"),
    ] {
        assert!(length >= n, "product: {what} too short");
    }
    if precision == Precision::Bf16 && bf16_unit().is_some() && k > 0 {
        return bf16::multiply(a, &bf16::Panels::new(b, k, n), [m, n, k], finish, c);
    }
    #[cfg(target_arch = "x86_64")]
    {
        let product = tiles::Product { a, b, sizes: [m, n, k], finish };
        match detected() {
            // SAFETY: the processor has been found to offer these instructions, and all lengths
            // were checked.
            Isa::Avx512 => return unsafe { product.write::<avx512::Kernel>(c) },
            // SAFETY: as above.
            Isa::Avx2 => return unsafe { product.write::<avx2::Kernel>(c) },
            Isa::Portable => {}
        }
    }
    plain(a, b, [m, n, k], c);
    finish_rows(finish, n, &mut c[..m * n]);
}

/// The product by the `gemm` crate, in fixed blocks of rows.
fn plain(a: Strided<'_>, b: Strided<'_>, [m, n, k]: [usize; 3], c: &mut [f32]) {
    let block = 64;
    c[..m * n].par_chunks_mut(block * n).enumerate().for_each(|(i, c)| {
        let rows = c.len() / n;
        let start = i * block * a.row;
        // SAFETY: the reach of both matrices was checked, and `c` holds `rows * n` values.
        unsafe {
            gemm::gemm(
                rows,
                n,
                k,
                c.as_mut_ptr(),
                1,
                n as isize,
                false,
                a.data.as_ptr().add(start),
                a.column as isize,
                a.row as isize,
                b.data.as_ptr(),
                b.column as isize,
                b.row as isize,
                0.0_f32,
                1.0_f32,
                false,
                false,
                false,
                gemm::Parallelism::None,
            );
        }
    });
}

fn finish_rows(finish: Finish<'_>, n: usize, c: &mut [f32]) {
    c.par_chunks_mut(n).enumerate().for_each(|(i, row)| {
        if let Some(bias) = finish.bias {
            row.iter_mut().zip(bias).for_each(|(c, b)| *c += b);
        }
        if finish.gelu {
            row.iter_mut().for_each(|c| *c = crate::elementwise::gelu_of(*c));
        }
        if let Some(residual) = finish.residual {
            row.iter_mut().zip(&residual[i * n..]).for_each(|(c, r)| *c += r);
        }
    });
}
