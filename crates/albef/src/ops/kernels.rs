//! The fused operations on the CPU: contiguous buffers in and out of `albef-kernels`.

use albef_kernels as k;
use burn::backend::{Flex, TensorMetadata};
use burn::tensor::TensorData;
use burn_flex::FlexTensor;

use super::fused::{FusedKernels, Op};

/// Rows and columns of a matrix, or one row of a vector.
fn dims(t: &FlexTensor) -> (usize, usize) {
    let shape = t.shape();
    match shape.num_dims() {
        1 => (1, shape[0]),
        _ => (shape[0], shape[1]),
    }
}

fn contiguous(t: FlexTensor) -> FlexTensor {
    if t.is_contiguous() && t.layout().start_offset() == 0 { t } else { t.to_contiguous() }
}

fn to_vec(t: &FlexTensor) -> &[f32] {
    let n: usize = t.shape().num_elements();
    &t.as_slice::<f32>().expect("the fused operations take contiguous f32 tensors")[..n]
}

fn matrix(data: Vec<f32>, rows: usize, columns: usize) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(data, [rows, columns]))
}

fn vector(data: Vec<f32>) -> FlexTensor {
    let n = data.len();
    FlexTensor::from_data(TensorData::new(data, [n]))
}

/// A buffer that a kernel writes in full.
#[expect(clippy::uninit_vec, reason = "every kernel writes its whole output before it is read")]
fn buffer(n: usize) -> Vec<f32> {
    let mut v = Vec::with_capacity(n);
    // SAFETY: the capacity was just reserved, every bit pattern is an f32, and each caller hands
    // the buffer to a kernel that overwrites all of it.
    unsafe { v.set_len(n) };
    v
}

fn heads(data: &[f32], stride: usize, offset: usize) -> k::Heads<'_> {
    k::Heads { data, stride, offset }
}

impl FusedKernels for Flex {
    fn forward<const N: usize>(
        op: &Op,
        inputs: [FlexTensor; N],
        keep: bool,
    ) -> (FlexTensor, Vec<FlexTensor>) {
        let inputs = inputs.map(contiguous);
        let at = |i: usize| to_vec(&inputs[i]);
        let (rows, width) = dims(&inputs[0]);
        match op {
            Op::Linear { gelu, precision } => {
                let (n, inner) = dims(&inputs[1]);
                let weight = k::Weight::new(at(1), n, inner, *precision);
                let mut y = buffer(rows * n);
                if *gelu && keep {
                    let mut z = buffer(rows * n);
                    k::linear_gelu_keep(weight, at(0), rows, Some(at(2)), &mut z, &mut y);
                    return (matrix(y, rows, n), vec![matrix(z, rows, n)]);
                }
                let act = if *gelu { k::Activation::Gelu } else { k::Activation::None };
                k::linear(weight, at(0), rows, Some(at(2)), act, None, &mut y);
                (matrix(y, rows, n), vec![])
            }
            Op::LayerNorm { eps } => {
                let mut y = buffer(rows * width);
                let mut stats = if keep { buffer(rows * 2) } else { vec![] };
                let stats_out = keep.then_some(&mut stats[..]);
                k::layer_norm(at(0), None, at(1), at(2), *eps, &mut y, None, stats_out);
                let kept = if keep { vec![vector(stats)] } else { vec![] };
                (matrix(y, rows, width), kept)
            }
            Op::AddLayerNorm { eps } => {
                let mut y = buffer(rows * width);
                let mut stats = if keep { buffer(rows * 2) } else { vec![] };
                let mut sum = if keep { buffer(rows * width) } else { vec![] };
                k::layer_norm(
                    at(0),
                    Some(at(1)),
                    at(2),
                    at(3),
                    *eps,
                    &mut y,
                    keep.then_some(&mut sum[..]),
                    keep.then_some(&mut stats[..]),
                );
                let kept =
                    if keep { vec![matrix(sum, rows, width), vector(stats)] } else { vec![] };
                (matrix(y, rows, width), kept)
            }
            Op::Attention(spec) => {
                let mut y = buffer(rows * width);
                let head = |i: usize| heads(at(i), width, 0);
                k::attention(&spec.kernel(), head(0), head(1), head(2), rows, &mut y);
                (matrix(y, rows, width), vec![])
            }
            Op::AttentionPacked(spec) => {
                let part = width / 3;
                let mut y = buffer(rows * part);
                let head = |i: usize| heads(at(0), width, i * part);
                k::attention(&spec.kernel(), head(0), head(1), head(2), rows, &mut y);
                (matrix(y, rows, part), vec![])
            }
            Op::Dropout(dropout) => {
                let mut y = buffer(rows * width);
                k::dropout(at(0), *dropout, &mut y);
                (matrix(y, rows, width), vec![])
            }
        }
    }

    fn backward<const N: usize>(
        op: &Op,
        inputs: [FlexTensor; N],
        kept: Vec<FlexTensor>,
        d_out: FlexTensor,
        wanted: [bool; N],
    ) -> [Option<FlexTensor>; N] {
        let inputs = inputs.map(contiguous);
        let d_out = contiguous(d_out);
        let at = |i: usize| to_vec(&inputs[i]);
        let (rows, width) = dims(&inputs[0]);
        let mut gradients: Vec<Option<FlexTensor>> = match op {
            Op::Linear { gelu, precision } => {
                let (n, inner) = dims(&inputs[1]);
                let sizes = [rows, n, inner];
                let dz = if *gelu {
                    let mut dz = buffer(rows * n);
                    k::gelu_backward(to_vec(&kept[0]), to_vec(&d_out), &mut dz);
                    matrix(dz, rows, n)
                } else {
                    d_out
                };
                drop(kept);
                let dz = to_vec(&dz);
                vec![
                    wanted[0].then(|| {
                        let mut dx = buffer(rows * inner);
                        k::linear_backward_input(dz, at(1), sizes, *precision, &mut dx);
                        matrix(dx, rows, inner)
                    }),
                    wanted[1].then(|| {
                        let mut dw = buffer(n * inner);
                        k::linear_backward_weight(dz, at(0), sizes, *precision, &mut dw);
                        matrix(dw, n, inner)
                    }),
                    wanted[2].then(|| {
                        let mut db = buffer(n);
                        k::linear_backward_bias(dz, rows, n, &mut db);
                        vector(db)
                    }),
                ]
            }
            Op::LayerNorm { .. } | Op::AddLayerNorm { .. } => {
                let added = matches!(op, Op::AddLayerNorm { .. });
                let (x, stats, weight) = if added {
                    (to_vec(&kept[0]), to_vec(&kept[1]), at(2))
                } else {
                    (at(0), to_vec(&kept[0]), at(1))
                };
                let mut dx = buffer(rows * width);
                let mut dw = buffer(width);
                let mut db = buffer(width);
                k::layer_norm_backward(x, stats, weight, to_vec(&d_out), &mut dx, &mut dw, &mut db);
                let dx = matrix(dx, rows, width);
                let mut all = vec![Some(dx.clone())];
                if added {
                    all.push(Some(dx));
                }
                all.push(Some(vector(dw)));
                all.push(Some(vector(db)));
                all
            }
            Op::Attention(spec) => {
                let (key_rows, _) = dims(&inputs[1]);
                let mut dq = buffer(rows * width);
                let mut dk = buffer(key_rows * width);
                let mut dv = buffer(key_rows * width);
                let head = |i: usize| heads(at(i), width, 0);
                k::attention_backward(
                    &spec.kernel(),
                    head(0),
                    head(1),
                    head(2),
                    to_vec(&d_out),
                    rows,
                    key_rows,
                    &mut dq,
                    &mut dk,
                    &mut dv,
                );
                vec![
                    Some(matrix(dq, rows, width)),
                    Some(matrix(dk, key_rows, width)),
                    Some(matrix(dv, key_rows, width)),
                ]
            }
            Op::AttentionPacked(spec) => {
                let mut d = buffer(rows * width);
                k::attention_backward_packed(&spec.kernel(), at(0), rows, to_vec(&d_out), &mut d);
                vec![Some(matrix(d, rows, width))]
            }
            Op::Dropout(dropout) => {
                let mut d = buffer(rows * width);
                k::dropout(to_vec(&d_out), *dropout, &mut d);
                vec![Some(matrix(d, rows, width))]
            }
        };
        std::array::from_fn(|i| gradients[i].take().filter(|_| wanted[i]))
    }
}
