//! Packing and the walk over tiles, the same for every kernel.
//!
//! The right matrix is packed as a whole and each task does a band of rows; where there are few rows and
//! many columns (the vocabulary head), the left one is, and each task packs the columns that it does.
//! Either way each entry is summed by one task in the same order.

use std::cell::RefCell;

use rayon::prelude::*;

use crate::operands::{Finish, Out, Strided, even_cut};

/// Length of the inner dimension handled at a time.
const KC: usize = 512;
/// Bytes of the right matrix that stay in the second-level cache.
const GROUP: usize = 256 * 1024;
/// Rows of a task's band, about.
const BAND: usize = 224;
/// So many more columns than rows make a product wide.
const WIDE: usize = 4;
/// Multiplications below which one task does all.
const SMALL: usize = 1 << 20;

/// What depends on the instructions of the processor.
pub(super) trait TileKernel {
    /// Rows of a tile of the result, at most `LANES`.
    const ROWS: usize;
    /// Columns of a tile, a multiple of `LANES`.
    const COLUMNS: usize;
    /// Values in a register.
    const LANES: usize;

    /// Turns `LANES` lines of `LANES` values: value `p` of line `i` goes to `to + p * step + i`. Only the first
    /// `lines` exist; what is written for others has no meaning.
    ///
    /// # Safety
    /// The processor must offer the instructions, and all places must exist.
    unsafe fn turn(from: *const f32, distance: usize, lines: usize, to: *mut f32, step: usize);

    /// The product of one packed row panel and one packed column panel.
    ///
    /// # Safety
    /// The processor must offer the instructions, the panels must reach `part.k` rows, and the tile must
    /// lie inside the result.
    unsafe fn tile(part: &Part, finish: Finish<'_>, out: Out);
}

/// A tile of the result and the panels it is formed of.
pub(super) struct Part {
    pub(super) k: usize,
    pub(super) a: *const f32,
    pub(super) b: *const f32,
    pub(super) rows: usize,
    pub(super) columns: usize,
    /// Place of its first value in the result.
    pub(super) at: usize,
    /// Distance of rows of the result.
    pub(super) n: usize,
    /// Whether nothing was summed before.
    pub(super) first: bool,
    /// Whether nothing will be summed after.
    pub(super) last: bool,
    /// Its first column.
    pub(super) column: usize,
}

/// Packs rows `p0 .. p1` of the columns from `first` on, `[p1 - p0][COLUMNS]`, columns beyond `n` zero.
///
/// # Safety
/// The processor must offer the kernel's instructions, and `b` must reach `p1` by `n`.
unsafe fn pack_columns<K: TileKernel>(
    b: Strided<'_>,
    (first, n): (usize, usize),
    (p0, p1): (usize, usize),
    panel: &mut [f32],
) {
    let columns = K::COLUMNS.min(n - first);
    if b.column == 1 {
        for (p, out) in panel.chunks_mut(K::COLUMNS).enumerate().take(p1 - p0) {
            let start = (p0 + p) * b.row + first;
            out[..columns].copy_from_slice(&b.data[start..start + columns]);
            out[columns..].fill(0.0);
        }
        return;
    }
    if columns < K::COLUMNS {
        panel.fill(0.0);
    }
    let mut done = 0;
    if b.row == 1 && columns == K::COLUMNS {
        let k = p1 - p0;
        done = k / K::LANES * K::LANES;
        let lines = &b.data[first * b.column + p0..];
        assert!(panel.len() >= k * K::COLUMNS && lines.len() >= (columns - 1) * b.column + k);
        for p in (0..done).step_by(K::LANES) {
            for c in (0..K::COLUMNS).step_by(K::LANES) {
                // SAFETY: the caller vouches for the processor; the lines and their places in the
                // panel exist.
                unsafe {
                    let from = lines.as_ptr().add(c * b.column + p);
                    let to = panel.as_mut_ptr().add(p * K::COLUMNS + c);
                    K::turn(from, b.column, K::LANES, to, K::COLUMNS);
                }
            }
        }
    }
    for c in 0..columns {
        let source = (first + c) * b.column;
        for p in p0 + done..p1 {
            panel[(p - p0) * K::COLUMNS + c] = b.data[source + p * b.row];
        }
    }
}

/// Packs the rows from `i0` on, `[k][ROWS]`, rows beyond `m` zero.
///
/// # Safety
/// As [`pack_columns`], for `a` and `m` by `k`.
unsafe fn pack_rows<K: TileKernel>(a: Strided<'_>, i0: usize, m: usize, k: usize, out: &mut [f32]) {
    let rows = K::ROWS.min(m - i0);
    if a.row == 1 {
        // Rows lie side by side: copy across.
        for (p, out) in out.chunks_mut(K::ROWS).enumerate().take(k) {
            let start = i0 + p * a.column;
            out[..rows].copy_from_slice(&a.data[start..start + rows]);
            out[rows..].fill(0.0);
        }
        return;
    }
    if rows < K::ROWS {
        out.fill(0.0);
    }
    let mut done = 0;
    if a.column == 1 && rows == K::ROWS {
        // Whole registers are stored, each over the excess of the one before: some lines are left.
        let excess = K::LANES - K::ROWS;
        done = (k * K::ROWS).saturating_sub(excess) / K::ROWS / K::LANES * K::LANES;
        let lines = &a.data[i0 * a.row..];
        assert!(out.len() >= k * K::ROWS && lines.len() >= (rows - 1) * a.row + k, "rows to pack");
        for p in (0..done).step_by(K::LANES) {
            // SAFETY: the rows have `k` columns, and at least the excess of a register follows the
            // last line that is stored.
            unsafe {
                let to = out.as_mut_ptr().add(p * K::ROWS);
                K::turn(lines.as_ptr().add(p), a.row, rows, to, K::ROWS);
            }
        }
    }
    for i in 0..rows {
        let start = (i0 + i) * a.row;
        for p in done..k {
            out[p * K::ROWS + i] = a.data[start + p * a.column];
        }
    }
}

thread_local! {
    static PACKED: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// A product and its parts.
pub(super) struct Product<'a> {
    pub(super) a: Strided<'a>,
    pub(super) b: Strided<'a>,
    /// Rows and columns of the result, and the length of the sums.
    pub(super) sizes: [usize; 3],
    pub(super) finish: Finish<'a>,
}

impl Product<'_> {
    /// Writes the result to `c`.
    ///
    /// # Safety
    /// The processor must offer the kernel's instructions; both matrices, the bias, the residual and `c`
    /// must reach the sizes.
    pub(super) unsafe fn write<K: TileKernel>(&self, c: &mut [f32]) {
        let out = Out(c.as_mut_ptr());
        // SAFETY: as the caller vouches.
        unsafe { if self.is_wide() { self.wide::<K>(out) } else { self.tall::<K>(out) } }
    }

    /// Whether there are so many more columns than rows that packing them first costs more, and a part
    /// of all rows stays in the second-level cache while each panel of columns passes.
    fn is_wide(&self) -> bool {
        let [m, n, _] = self.sizes;
        m * WIDE <= n && m * self.blocks().0 * 4 <= GROUP
    }

    /// Lengths of a part of the sums, and how many there are.
    fn blocks(&self) -> (usize, usize) {
        let blocks = self.sizes[2].div_ceil(KC).max(1);
        (self.sizes[2].div_ceil(blocks), blocks)
    }

    /// Runs tasks, beside each other if there is enough to do.
    fn each(&self, tasks: usize, task: impl Fn(usize) + Sync + Send) {
        let small = self.sizes.iter().product::<usize>() < SMALL;
        if tasks == 1 || small {
            (0..tasks).for_each(task);
        } else {
            (0..tasks).into_par_iter().for_each(task);
        }
    }

    /// The tile of row tile `t` and column panel `j` in part `block` of the sums; `a` and `b` are the packed
    /// panels from that part on.
    fn part<K: TileKernel>(
        &self,
        (t, j): (usize, usize),
        block: usize,
        a: &[f32],
        b: &[f32],
    ) -> Part {
        let [m, n, k] = self.sizes;
        let (kc, blocks) = self.blocks();
        let length = ((block + 1) * kc).min(k).saturating_sub(block * kc);
        assert!(a.len() >= length * K::ROWS && b.len() >= length * K::COLUMNS, "packed panels");
        Part {
            k: length,
            a: a.as_ptr(),
            b: b.as_ptr(),
            rows: K::ROWS.min(m - t * K::ROWS),
            columns: K::COLUMNS.min(n - j * K::COLUMNS),
            at: t * K::ROWS * n + j * K::COLUMNS,
            n,
            first: block == 0,
            last: block + 1 == blocks,
            column: j * K::COLUMNS,
        }
    }

    /// Many rows: each task does a band of them.
    unsafe fn tall<K: TileKernel>(&self, out: Out) {
        let [m, n, k] = self.sizes;
        let (kc, blocks) = self.blocks();
        let column_panels = n.div_ceil(K::COLUMNS);
        let size = k * K::COLUMNS;
        let mut right = vec![0.0; column_panels * size];
        let places = Out(right.as_mut_ptr());
        self.each(column_panels, |j| {
            // SAFETY: each task writes its own panel; the caller vouches for the rest.
            unsafe {
                let panel = std::slice::from_raw_parts_mut(places.at(j * size), size);
                pack_columns::<K>(self.b, (j * K::COLUMNS, n), (0, k), panel);
            }
        });
        let tiles = m.div_ceil(K::ROWS);
        let group = (GROUP / (kc.max(1) * K::COLUMNS * 4)).max(1);
        let tasks = even_cut(tiles, BAND / K::ROWS);
        self.each(tasks, |task| {
            let (from, to) = (task * tiles / tasks, (task + 1) * tiles / tasks);
            PACKED.with_borrow_mut(|left| {
                let size = k * K::ROWS;
                left.resize(((to - from) * size).max(left.len()), 0.0);
                for t in from..to {
                    let place = &mut left[(t - from) * size..(t - from + 1) * size];
                    // SAFETY: the caller vouches for the processor and the left matrix.
                    unsafe { pack_rows::<K>(self.a, t * K::ROWS, m, k, place) };
                }
                for j0 in (0..column_panels).step_by(group) {
                    for block in 0..blocks {
                        for t in from..to {
                            let a = &left[(t - from) * size + block * kc * K::ROWS..];
                            for j in j0..(j0 + group).min(column_panels) {
                                let b = &right[(j * k + block * kc) * K::COLUMNS..];
                                let part = self.part::<K>((t, j), block, a, b);
                                // SAFETY: the panels were checked, and no other task writes
                                // these rows.
                                unsafe { K::tile(&part, self.finish, out) };
                            }
                        }
                    }
                }
            });
        });
    }

    /// Few rows and many columns: each task does a panel of columns.
    unsafe fn wide<K: TileKernel>(&self, out: Out) {
        let [m, n, k] = self.sizes;
        let (kc, blocks) = self.blocks();
        let tiles = m.div_ceil(K::ROWS);
        let size = k * K::ROWS;
        let mut left = vec![0.0; tiles * size];
        let places = Out(left.as_mut_ptr());
        self.each(tiles, |t| {
            // SAFETY: each task writes its own rows; the caller vouches for the rest.
            unsafe {
                let place = std::slice::from_raw_parts_mut(places.at(t * size), size);
                pack_rows::<K>(self.a, t * K::ROWS, m, k, place);
            }
        });
        self.each(n.div_ceil(K::COLUMNS), |j| {
            PACKED.with_borrow_mut(|panel| {
                panel.resize((kc * K::COLUMNS).max(panel.len()), 0.0);
                for block in 0..blocks {
                    let range = (block * kc, ((block + 1) * kc).min(k));
                    let place = &mut panel[..(range.1 - range.0) * K::COLUMNS];
                    // SAFETY: the caller vouches for the processor and the right matrix.
                    unsafe { pack_columns::<K>(self.b, (j * K::COLUMNS, n), range, place) };
                    for t in 0..tiles {
                        let a = &left[t * size + block * kc * K::ROWS..];
                        let part = self.part::<K>((t, j), block, a, place);
                        // SAFETY: the panels were checked, and no other task writes these columns.
                        unsafe { K::tile(&part, self.finish, out) };
                    }
                }
            });
        });
    }
}
