//! Layer norm, forward and backward.

use rayon::prelude::*;

use crate::isa::for_each_isa;

/// Sum in 16 lanes, so that it vectorises and stays accurate.
#[inline(always)]
fn sum(n: usize, f: impl Fn(usize) -> f32) -> f32 {
    let mut lanes = [0.0_f32; 16];
    let whole = n - n % 16;
    for i in (0..whole).step_by(16) {
        for (l, lane) in lanes.iter_mut().enumerate() {
            *lane += f(i + l);
        }
    }
    for i in whole..n {
        lanes[i % 16] += f(i);
    }
    for half in [8, 4, 2, 1] {
        for l in 0..half {
            lanes[l] += lanes[l + half];
        }
    }
    lanes[0]
}

for_each_isa! {
    fn forward_row(x: &[f32], weight: &[f32], bias: &[f32], eps: f32, y: &mut [f32]) -> (f32, f32) {
        let n = weight.len();
        let (x, bias, y) = (&x[..n], &bias[..n], &mut y[..n]);
        let mean = sum(n, |i| x[i]) / n as f32;
        let variance = sum(n, |i| (x[i] - mean) * (x[i] - mean)) / n as f32;
        let scale = 1.0 / (variance + eps).sqrt();
        for i in 0..n {
            y[i] = (x[i] - mean) * scale * weight[i] + bias[i];
        }
        (mean, scale)
    }
}

for_each_isa! {
    fn backward_row(x: &[f32], stats: &[f32], weight: &[f32], dy: &[f32], dx: &mut [f32]) {
        let n = weight.len();
        let (x, dy, dx) = (&x[..n], &dy[..n], &mut dx[..n]);
        let (mean, scale) = (stats[0], stats[1]);
        let a = sum(n, |i| dy[i] * weight[i]) / n as f32;
        let b = sum(n, |i| dy[i] * weight[i] * (x[i] - mean)) * scale * scale / n as f32;
        for i in 0..n {
            dx[i] = scale * (dy[i] * weight[i] - a - (x[i] - mean) * b);
        }
    }
}

for_each_isa! {
    fn add_row(x: &[f32], y: &[f32], out: &mut [f32]) {
        for ((x, y), o) in x.iter().zip(y).zip(out) {
            *o = x + y;
        }
    }
}

for_each_isa! {
    fn parameter_row(x: &[f32], stats: &[f32], dy: &[f32], dw: &mut [f32], db: &mut [f32]) {
        let n = dw.len();
        let (x, dy, db) = (&x[..n], &dy[..n], &mut db[..n]);
        for i in 0..n {
            dw[i] += dy[i] * (x[i] - stats[0]) * stats[1];
            db[i] += dy[i];
        }
    }
}

/// `y = LN(x + residual) * weight + bias` by row. `sum` receives `x + residual` (needed with a
/// residual when gradients follow), `stats` mean and reciprocal deviation of each row.
///
/// # Panics
/// If the lengths do not fit.
pub fn layer_norm(
    x: &[f32],
    residual: Option<&[f32]>,
    weight: &[f32],
    bias: &[f32],
    eps: f32,
    y: &mut [f32],
    sum: Option<&mut [f32]>,
    stats: Option<&mut [f32]>,
) {
    let n = weight.len();
    assert!(n > 0 && x.len().is_multiple_of(n), "layer norm: {} values, width {n}", x.len());
    assert!(bias.len() == n && y.len() == x.len(), "layer norm: bias or result");
    assert!(residual.is_none_or(|r| r.len() == x.len()), "layer norm: residual");
    let rows = x.len() / n;
    let mut own_stats = Vec::new();
    let stats = stats.unwrap_or_else(|| {
        own_stats.resize(rows * 2, 0.0);
        &mut own_stats
    });
    assert_eq!(stats.len(), rows * 2, "layer norm: statistics");
    let block = 16;
    let work = |x: &[f32],
                r: Option<&[f32]>,
                y: &mut [f32],
                s: Option<&mut [f32]>,
                st: &mut [f32]| {
        match (r, s) {
            (Some(r), Some(s)) => {
                add_row(x, r, s);
                for (i, st) in st.chunks_mut(2).enumerate() {
                    let at = i * n..(i + 1) * n;
                    let row = forward_row(&s[at.clone()], weight, bias, eps, &mut y[at]);
                    (st[0], st[1]) = row;
                }
            }
            (r, _) => {
                let mut line = vec![0.0; n];
                for (i, st) in st.chunks_mut(2).enumerate() {
                    let at = i * n..(i + 1) * n;
                    let source = match r {
                        Some(r) => {
                            add_row(&x[at.clone()], &r[at.clone()], &mut line);
                            &line
                        }
                        None => &x[at.clone()],
                    };
                    (st[0], st[1]) = forward_row(source, weight, bias, eps, &mut y[at]);
                }
            }
        }
    };
    let cut = block * n;
    let parts = x.par_chunks(cut).zip(y.par_chunks_mut(cut)).zip(stats.par_chunks_mut(block * 2));
    match sum {
        Some(sum) => {
            assert_eq!(sum.len(), x.len(), "layer norm: sum");
            parts.zip(sum.par_chunks_mut(cut)).enumerate().for_each(|(i, (((x, y), st), s))| {
                let r = residual.map(|r| &r[i * cut..i * cut + x.len()]);
                if r.is_none() {
                    s.copy_from_slice(x);
                }
                work(x, r, y, r.is_some().then_some(s), st);
            });
        }
        None => parts.enumerate().for_each(|(i, ((x, y), st))| {
            let r = residual.map(|r| &r[i * cut..i * cut + x.len()]);
            work(x, r, y, None, st);
        }),
    }
}

/// Gradients of a layer norm of `x` (the sum, where there was a residual).
///
/// # Panics
/// If the lengths do not fit.
pub fn layer_norm_backward(
    x: &[f32],
    stats: &[f32],
    weight: &[f32],
    dy: &[f32],
    dx: &mut [f32],
    dweight: &mut [f32],
    dbias: &mut [f32],
) {
    let n = weight.len();
    assert!(n > 0 && x.len().is_multiple_of(n), "layer norm: {} values, width {n}", x.len());
    assert!(dy.len() == x.len() && dx.len() == x.len(), "layer norm: gradients");
    assert!(dweight.len() == n && dbias.len() == n, "layer norm: parameter gradients");
    let rows = x.len() / n;
    assert_eq!(stats.len(), rows * 2, "layer norm: statistics");
    dx.par_chunks_mut(n).with_min_len(16).enumerate().for_each(|(i, dx)| {
        let at = i * n..(i + 1) * n;
        backward_row(&x[at.clone()], &stats[2 * i..2 * i + 2], weight, &dy[at], dx);
    });
    // Blocks of rows are summed apart and added in order: the cut depends on the size alone.
    let block = 128;
    let partial: Vec<(Vec<f32>, Vec<f32>)> = (0..rows.div_ceil(block))
        .into_par_iter()
        .map(|b| {
            let (mut dw, mut db) = (vec![0.0; n], vec![0.0; n]);
            for i in b * block..((b + 1) * block).min(rows) {
                let at = i * n..(i + 1) * n;
                let st = &stats[2 * i..2 * i + 2];
                parameter_row(&x[at.clone()], st, &dy[at], &mut dw, &mut db);
            }
            (dw, db)
        })
        .collect();
    dweight.fill(0.0);
    dbias.fill(0.0);
    for (dw, db) in partial {
        dweight.iter_mut().zip(dw).for_each(|(a, b)| *a += b);
        dbias.iter_mut().zip(db).for_each(|(a, b)| *a += b);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::uniform;

    #[test]
    fn gradients_agree_with_central_differences() {
        let (rows, n) = (5, 37);
        let random = |seed: u64, len: usize| -> Vec<f32> {
            (0..len).map(|i| uniform(seed, i as u64) * 2.0 - 1.0).collect()
        };
        let (x, r) = (random(1, rows * n), random(2, rows * n));
        let (w, b, g) = (random(3, n), random(4, n), random(5, rows * n));
        let (mut y, mut sum) = (vec![0.0; rows * n], vec![0.0; rows * n]);
        let mut stats = vec![0.0; rows * 2];
        layer_norm(&x, Some(&r), &w, &b, 1e-6, &mut y, Some(&mut sum), Some(&mut stats));
        let loss = |x: &[f64], w: &[f64]| -> f64 {
            x.chunks(n)
                .enumerate()
                .map(|(i, row)| {
                    let mean = row.iter().sum::<f64>() / n as f64;
                    let var = row.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n as f64;
                    let scale = 1.0 / (var + 1e-6).sqrt();
                    (0..n)
                        .map(|j| f64::from(g[i * n + j]) * ((row[j] - mean) * scale * w[j]))
                        .sum::<f64>()
                })
                .sum()
        };
        let wide = |v: &[f32]| v.iter().map(|v| f64::from(*v)).collect::<Vec<_>>();
        let (mut dx, mut dw, mut db) = (vec![0.0; rows * n], vec![0.0; n], vec![0.0; n]);
        layer_norm_backward(&sum, &stats, &w, &g, &mut dx, &mut dw, &mut db);
        let (s, w64) = (wide(&sum), wide(&w));
        let h = 1e-5;
        for i in (0..rows * n).step_by(7) {
            let (mut up, mut down) = (s.clone(), s.clone());
            up[i] += h;
            down[i] -= h;
            let want = (loss(&up, &w64) - loss(&down, &w64)) / (2.0 * h);
            assert!((f64::from(dx[i]) - want).abs() < 1e-4, "dx[{i}] {} {want}", dx[i]);
        }
        for i in 0..n {
            let (mut up, mut down) = (w64.clone(), w64.clone());
            up[i] += h;
            down[i] -= h;
            let want = (loss(&s, &up) - loss(&s, &down)) / (2.0 * h);
            assert!((f64::from(dw[i]) - want).abs() < 1e-4, "dw[{i}]");
            let bias: f32 = (0..rows).map(|r| g[r * n + i]).sum();
            assert!((db[i] - bias).abs() < 1e-5, "db[{i}]");
        }
    }
}
