//! Position tables at another resolution (paper section 3.5).

use crate::error::{Result, WeightsError};
use crate::tensor::{HostTensor, StateDict};

const A: f32 = -0.75;

/// The four taps of one output place: first index (may lie outside) and weights. In single precision and
/// with products that are not rounded, as in the framework of the official code: of a table of 30 x 30 the
/// place of a tap is off by 1e-6, which moves values by more than sums of another order do.
fn taps(scale: f32, place: usize) -> (isize, [f64; 4]) {
    let source = scale.mul_add(place as f32 + 0.5, -0.5);
    let first = source.floor();
    let t = source - first;
    let near = |x: f32| ((A + 2.0).mul_add(x, -(A + 3.0)) * x).mul_add(x, 1.0);
    let far = |x: f32| A.mul_add(x, -5.0 * A).mul_add(x, 8.0 * A).mul_add(x, -4.0 * A);
    let weights = [far(t + 1.0), near(t), near(1.0 - t), far(2.0 - t)];
    (first as isize - 1, weights.map(f64::from))
}

/// Resizes a table `[1 + from * from, width]` to `[1 + to * to, width]`: the class row stays, the
/// grid is resized bicubically (a = -0.75, corners not aligned, no antialiasing).
#[must_use]
pub fn interpolate_pos_embed(table: &[f32], width: usize, from: usize, to: usize) -> Vec<f32> {
    if from == to || from == 0 || table.len() != (1 + from * from) * width {
        return table.to_vec();
    }
    let grid = &table[width..];
    let scale = from as f32 / to as f32;
    let clamp = |i: isize| i.clamp(0, from as isize - 1) as usize;
    let mut out = table[..width].to_vec();
    out.reserve(to * to * width);
    for y in 0..to {
        let (y0, wy) = taps(scale, y);
        for x in 0..to {
            let (x0, wx) = taps(scale, x);
            for c in 0..width {
                let mut sum = 0.0;
                for (i, wy) in wy.iter().enumerate() {
                    let row = clamp(y0 + i as isize) * from;
                    let mut line = 0.0;
                    for (j, wx) in wx.iter().enumerate() {
                        line += wx * f64::from(grid[(row + clamp(x0 + j as isize)) * width + c]);
                    }
                    sum += wy * line;
                }
                out.push(sum as f32);
            }
        }
    }
    out
}

/// Resizes every `*.pos_embed` table of the state to `grid * grid` patches; gives the names of those
/// that had another grid, with the patches along its side.
///
/// # Errors
/// If a table is not `[1, 1 + n * n, width]`, or beside a distillation token.
pub fn resize_tables(state: &mut StateDict, grid: usize) -> Result<Vec<(String, usize)>> {
    let tables: Vec<String> =
        state.names().filter(|n| n.ends_with("pos_embed")).map(str::to_owned).collect();
    let mut resized = Vec::new();
    for name in tables {
        let Some(table) = state.get(&name) else { continue };
        let [1, tokens, width] = table.shape[..] else {
            return Err(WeightsError::Keys(format!(
                "`{name}` has shape {:?}; expected is [1, 1 + grid * grid, width]",
                table.shape
            )));
        };
        if let Some(part) = name.strip_suffix("pos_embed")
            && state.get(&format!("{part}dist_token")).is_some()
        {
            return Err(WeightsError::Keys(format!(
                "`{name}` has {tokens} rows, one of them for `{part}dist_token`: this is a distilled DeiT, which \
                 ALBEF does not start from; hint: use the plain `deit_base_patch16_224`"
            )));
        }
        let from = tokens.saturating_sub(1).isqrt();
        if from * from + 1 != tokens || from == 0 {
            return Err(WeightsError::Keys(format!(
                "`{name}` has {tokens} rows; expected are 1 + n * n, for the class token and a square of patches"
            )));
        }
        if from != grid {
            let values = interpolate_pos_embed(&table.to_f32()?, width, from, grid);
            let tensor = HostTensor::from_f32(&[1, 1 + grid * grid, width], &values);
            state.insert(name.clone(), tensor);
            resized.push((name, from));
        }
    }
    Ok(resized)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_between_rows_are_those_of_single_precision() {
        let (from, to) = (16, 24);
        let value = |i: usize| ((i / from * 37 + i % from * 11) % 64) as f32 / 8.0 - 4.0;
        let table: Vec<f32> = [0.0].into_iter().chain((0..from * from).map(value)).collect();
        let resized = interpolate_pos_embed(&table, 1, from, to);
        // Of PyTorch's bicubic interpolation; in double precision they are off by 4.4e-6 to 4.8e-6.
        for (row, column, expected) in [
            (21, 18, -1.816_534_3),
            (0, 18, -2.946_490_8),
            (15, 6, 0.329_277_63),
            (21, 3, 0.079_278_04),
        ] {
            let found = resized[1 + row * to + column];
            assert!((found - expected).abs() < 1e-6, "{row} {column}: {found}");
        }
    }

    #[test]
    fn tables_are_resized_once_and_their_former_grid_is_told() {
        let table = |shape: &[usize]| {
            let count = shape.iter().product();
            StateDict::from_iter([(
                "visual_encoder.pos_embed".to_owned(),
                HostTensor::from_f32(shape, &vec![0.5; count]),
            )])
        };
        let mut state = table(&[1, 17, 3]);
        let former = vec![("visual_encoder.pos_embed".to_owned(), 4)];
        assert_eq!(resize_tables(&mut state, 6).unwrap(), former);
        assert_eq!(state.get("visual_encoder.pos_embed").unwrap().shape, [1, 37, 3]);
        assert_eq!(resize_tables(&mut state, 6).unwrap(), []);
        for shape in [&[2, 17, 3][..], &[1, 16, 3], &[17, 3], &[1, 1, 3]] {
            assert!(resize_tables(&mut table(shape), 6).is_err(), "{shape:?}");
        }
        // With and without a table that would be square.
        for rows in [17, 18] {
            let mut distilled = table(&[1, rows, 3]);
            distilled
                .insert("visual_encoder.dist_token".into(), HostTensor::from_f32(&[1], &[0.0]));
            let said = resize_tables(&mut distilled, 6).unwrap_err().to_string();
            assert!(said.contains("a distilled DeiT"), "{said}");
            assert!(said.contains("use the plain `deit_base_patch16_224`"), "{said}");
        }
    }
}
