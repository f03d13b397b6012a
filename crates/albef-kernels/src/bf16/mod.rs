//! Products with factors rounded to bf16 and sums in f32.
//!
//! Both factors are packed as pairs along the inner dimension, which is how the processors' bf16
//! units take them: the left matrix in blocks `[m / 32][k / 32][32 rows][32]`, the right one in
//! panels `[n / 32][k / 2][32 columns][2]`. What lies beyond a matrix is zero.

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod pack;

use std::sync::OnceLock;

/// What the factors of a product are rounded to. Sums, and everything else, are f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// Not at all.
    #[default]
    F32,
    /// To bf16, on processors with a unit for it ([`bf16_unit`]); elsewhere as [`Precision::F32`].
    Bf16,
}

/// A unit for bf16 products.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bf16Unit {
    /// Tile registers (AMX).
    Amx,
    /// Dot products of pairs (AVX512-BF16).
    Avx512,
}

/// The bf16 unit in use. `ALBEF_ISA=avx512` rules out AMX, `ALBEF_ISA=avx2` any.
#[must_use]
pub fn bf16_unit() -> Option<Bf16Unit> {
    static FOUND: OnceLock<Option<Bf16Unit>> = OnceLock::new();
    *FOUND.get_or_init(find)
}

#[cfg(target_arch = "x86_64")]
fn find() -> Option<Bf16Unit> {
    let pairs = is_x86_feature_detected!("avx512bf16");
    if crate::isa::detected() != crate::isa::Isa::Avx512 || !pairs {
        return None;
    }
    let limited = std::env::var_os("ALBEF_ISA").is_some_and(|v| v == "avx512");
    Some(if !limited && amx::permitted() { Bf16Unit::Amx } else { Bf16Unit::Avx512 })
}

#[cfg(not(target_arch = "x86_64"))]
fn find() -> Option<Bf16Unit> {
    None
}

/// Side of the square of the result that is computed at a time.
const SIDE: usize = 32;

/// The right-hand matrix `[k, n]` as panels of pairs.
pub(crate) struct Panels {
    data: Vec<u32>,
    /// Blocks of 32 along the inner dimension.
    blocks: usize,
}

#[cfg(target_arch = "x86_64")]
pub(crate) use product::multiply;

/// Where there is no unit nothing is packed for one.
#[cfg(not(target_arch = "x86_64"))]
mod product {
    use super::Panels;
    use crate::operands::{Finish, Strided};

    impl Panels {
        pub(crate) fn new(_: Strided<'_>, _: usize, _: usize) -> Self {
            unreachable!("there is no bf16 unit")
        }
    }

    pub(crate) fn multiply(
        _: Strided<'_>,
        _: &Panels,
        _: [usize; 3],
        _: Finish<'_>,
        _: &mut [f32],
    ) {
        unreachable!("there is no bf16 unit")
    }
}

#[cfg(not(target_arch = "x86_64"))]
pub(crate) use product::multiply;

#[cfg(target_arch = "x86_64")]
mod product {
    use std::cell::RefCell;

    use rayon::prelude::*;

    use super::{Bf16Unit, Panels, SIDE, amx, avx512, bf16_unit, pack};
    use crate::isa::for_each_isa;
    use crate::operands::{Finish, Out, Strided, even_cut};

    /// Words of a block of either factor: 32 lines of 16 pairs.
    pub(super) const BLOCK: usize = SIDE * 16;

    impl Panels {
        /// Packs `b`, whose element `(p, j)` lies at `p * row + j * column`.
        pub(crate) fn new(b: Strided<'_>, k: usize, n: usize) -> Self {
            let blocks = k.div_ceil(SIDE);
            let size = blocks * BLOCK;
            let mut data = vec![0_u32; n.div_ceil(SIDE) * size];
            let work = |(j, panel): (usize, &mut [u32])| {
                // SAFETY: `bf16_unit` has found the instructions.
                unsafe { pack::panel(b, j * SIDE, k, n, panel) }
            };
            if k * n < 1 << 16 {
                data.chunks_mut(size.max(1)).enumerate().for_each(work);
            } else {
                data.par_chunks_mut(size.max(1)).enumerate().for_each(work);
            }
            Self { data, blocks }
        }
    }

    thread_local! {
        static PACKED: RefCell<Vec<u32>> = const { RefCell::new(Vec::new()) };
    }

    /// `c[m][n] = finish(a[m][k] b[k][n])`. Lengths are checked by the caller.
    pub(crate) fn multiply(
        a: Strided<'_>,
        b: &Panels,
        [m, n, k]: [usize; 3],
        finish: Finish<'_>,
        c: &mut [f32],
    ) {
        let size = b.blocks * BLOCK;
        assert!(b.data.len() >= n.div_ceil(SIDE) * size, "product: panels too short");
        let (tiles, panels) = (m.div_ceil(SIDE), n.div_ceil(SIDE));
        // Bands of rows whose packed form stays in the second-level cache; few rows and many columns
        // are cut by columns. The cut depends on the sizes alone.
        let bands = even_cut(tiles, (512 * 1024 / (4 * size.max(1))).clamp(1, 16));
        let groups = (8 / bands).clamp(1, panels);
        let group = panels.div_ceil(groups);
        let out = Out(c.as_mut_ptr());
        let unit = bf16_unit();
        let task = |t: usize| {
            let (first, last) = (t / groups * tiles / bands, (t / groups + 1) * tiles / bands);
            let (from, to) = (t % groups * group, (t % groups * group + group).min(panels));
            if from >= to {
                return;
            }
            PACKED.with_borrow_mut(|buffer| {
                let length = (last - first) * size;
                buffer.resize(length.max(buffer.len()), 0);
                for i in first..last {
                    let part = &mut buffer[(i - first) * size..(i - first + 1) * size];
                    // SAFETY: `bf16_unit` has found the instructions.
                    unsafe { pack::rows(a, i * SIDE, m, k, part) };
                }
                let work = Part {
                    left: buffer,
                    right: &b.data,
                    size,
                    rows: (first, last),
                    columns: (from, to),
                };
                match unit {
                    Some(Bf16Unit::Amx) => {
                        // SAFETY: the unit was found and its use was granted.
                        let tiles = unsafe { amx::Tiles::configured() };
                        work.run([m, n], finish, out, |l, r, sums| tiles.product(l, r, sums));
                    }
                    // SAFETY: `bf16_unit` has found the instructions.
                    _ => work.run([m, n], finish, out, |l, r, sums| unsafe {
                        avx512::product(l, r, sums);
                    }),
                }
            });
        };
        let tasks = bands * groups;
        if tasks == 1 || m * n * k < 1 << 18 {
            (0..tasks).for_each(task);
        } else {
            (0..tasks).into_par_iter().for_each(task);
        }
    }

    /// A rectangle of the result that one task computes, in squares.
    struct Part<'a> {
        /// Packed rows of the left factor, from `rows.0` on.
        left: &'a [u32],
        right: &'a [u32],
        /// Words of a packed line of blocks.
        size: usize,
        rows: (usize, usize),
        columns: (usize, usize),
    }

    impl Part<'_> {
        fn run(
            &self,
            [m, n]: [usize; 2],
            finish: Finish<'_>,
            out: Out,
            product: impl Fn(&[u32], &[u32], &mut Square),
        ) {
            let mut sums = Square([0.0; SIDE * SIDE]);
            for j in self.columns.0..self.columns.1 {
                let right = &self.right[j * self.size..(j + 1) * self.size];
                for i in self.rows.0..self.rows.1 {
                    let at = (i - self.rows.0) * self.size;
                    product(&self.left[at..at + self.size], right, &mut sums);
                    let columns = SIDE.min(n - j * SIDE);
                    for r in 0..SIDE.min(m - i * SIDE) {
                        let at = (i * SIDE + r) * n + j * SIDE;
                        // SAFETY: the line lies inside the result, and only this task writes it.
                        let c = unsafe { std::slice::from_raw_parts_mut(out.at(at), columns) };
                        let bias = finish.bias.map(|b| &b[j * SIDE..][..columns]);
                        let added = finish.residual.map(|r| &r[at..at + columns]);
                        let sums = &sums.0[r * SIDE..r * SIDE + columns];
                        finish_line(sums, bias, finish.gelu, added, c);
                    }
                }
            }
        }
    }

    /// Sums of a square of the result, `[32][32]`.
    #[repr(align(64))]
    pub(super) struct Square(pub(super) [f32; SIDE * SIDE]);

    for_each_isa! {
        fn finish_line(
            sums: &[f32],
            bias: Option<&[f32]>,
            gelu: bool,
            added: Option<&[f32]>,
            c: &mut [f32],
        ) {
            match bias {
                Some(bias) => {
                    for ((c, s), b) in c.iter_mut().zip(sums).zip(bias) {
                        *c = s + b;
                    }
                }
                None => c.copy_from_slice(sums),
            }
            if gelu {
                for c in c.iter_mut() {
                    *c = crate::elementwise::gelu_of(*c);
                }
            }
            if let Some(added) = added {
                for (c, r) in c.iter_mut().zip(added) {
                    *c += r;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gemm::multiply;
    use crate::operands::{Finish, Strided};
    use crate::random::uniform;

    fn random(seed: u64, n: usize) -> Vec<f32> {
        (0..n).map(|i| uniform(seed, i as u64) * 2.0 - 1.0).collect()
    }

    fn rounded(x: f32) -> f64 {
        let bits = x.to_bits();
        let up = bits + 0x7fff + ((bits >> 16) & 1);
        f64::from(f32::from_bits(up & 0xffff_0000))
    }

    /// Every combination of layouts against sums in double precision of the rounded factors.
    #[test]
    fn products_are_exact_for_rounded_factors_in_all_layouts() {
        let exact = bf16_unit().is_some();
        for [m, n, k] in
            [[1, 1, 1], [3, 33, 5], [32, 32, 32], [29, 70, 1025], [200, 65, 48], [7, 900, 31]]
        {
            let (a, b) = (random(1, m * k), random(2, k * n));
            let (bias, residual) = (random(3, n), random(4, m * n));
            for layout in 0..4 {
                let (a_row, a_column) = if layout & 1 == 0 { (k, 1) } else { (1, m) };
                let (b_row, b_column) = if layout & 2 == 0 { (n, 1) } else { (1, k) };
                let left = Strided { data: &a, row: a_row, column: a_column };
                let right = Strided { data: &b, row: b_row, column: b_column };
                let finish = Finish { bias: Some(&bias), gelu: false, residual: Some(&residual) };
                let mut c = vec![f32::NAN; m * n];
                multiply(left, right, [m, n, k], Precision::Bf16, finish, &mut c);
                let value = |x: f32| if exact { rounded(x) } else { f64::from(x) };
                for i in 0..m {
                    for j in 0..n {
                        let dot: f64 = (0..k)
                            .map(|p| {
                                value(a[i * a_row + p * a_column])
                                    * value(b[p * b_row + j * b_column])
                            })
                            .sum();
                        let want = dot + f64::from(bias[j]) + f64::from(residual[i * n + j]);
                        let got = f64::from(c[i * n + j]);
                        assert!(
                            (got - want).abs() < 3e-5 * (1.0 + want.abs()),
                            "{m} {n} {k} layout {layout}, ({i}, {j}): {got}, not {want}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn results_do_not_depend_on_the_number_of_threads() {
        let [m, n, k] = [300, 200, 130];
        let (a, b) = (random(1, m * k), random(2, k * n));
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let right = Strided { data: &b, row: n, column: 1 };
                let left = Strided { data: &a, row: k, column: 1 };
                let mut c = vec![0.0; m * n];
                multiply(left, right, [m, n, k], Precision::Bf16, Finish::NOTHING, &mut c);
                c
            })
        };
        assert_eq!(run(1), run(3));
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn both_units_agree_where_both_are_at_hand() {
        if bf16_unit() != Some(Bf16Unit::Amx) {
            return;
        }
        let [m, n, k] = [32, 32, 64];
        let (a, b) = (random(1, m * k), random(2, k * n));
        let mut left = vec![0; 2 * product::BLOCK];
        let mut right = vec![0; 2 * product::BLOCK];
        let mut sums = [product::Square([0.0; 1024]), product::Square([0.0; 1024])];
        // SAFETY: the processor has all that AMX needs, and AVX512-BF16.
        unsafe {
            pack::rows(Strided { data: &a, row: k, column: 1 }, 0, m, k, &mut left);
            pack::panel(Strided { data: &b, row: n, column: 1 }, 0, k, n, &mut right);
            amx::Tiles::configured().product(&left, &right, &mut sums[0]);
            avx512::product(&left, &right, &mut sums[1]);
        }
        for (x, y) in sums[0].0.iter().zip(&sums[1].0) {
            assert!((x - y).abs() < 1e-5, "{x} and {y}");
        }
    }
}
