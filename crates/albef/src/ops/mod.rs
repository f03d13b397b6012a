//! The operations that the model is made of.
//!
//! Each exists twice: fused, as a hand-written CPU kernel with a hand-written gradient
//! (`fused`), and plain, composed of ordinary tensor operations (`plain`), which is what other
//! devices run and what the tests hold the kernels against. [`Ops`] says which of the two a model
//! uses; it is chosen once, when the model is built, from the device.

mod fused;
mod kernels;
pub mod plain;
mod spec;

use std::sync::Arc;

use burn::tensor::{Device, Int, Tensor, TensorData};

pub use albef_kernels::{Bf16Unit, Dropout, Precision, Segment, bf16_unit, detected, features};
pub use fused::Op;
pub use spec::AttentionSpec;

/// Which implementation of the operations a model uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ops {
    /// Hand-written CPU kernels, with the factors of products in this precision.
    Fused(Precision),
    /// Ordinary tensor operations, on any device.
    Plain,
}

impl Ops {
    /// The fused kernels in f32 on the CPU, ordinary operations elsewhere.
    #[must_use]
    pub fn for_device(device: &Device) -> Self {
        if is_cpu(device) { Self::Fused(Precision::F32) } else { Self::Plain }
    }

    /// The precision that products have: f32 also where there is no unit for another one.
    #[must_use]
    pub fn precision(self) -> Precision {
        match self {
            Self::Fused(precision) if bf16_unit().is_some() => precision,
            _ => Precision::F32,
        }
    }

    /// The same with products in another precision; ordinary operations know f32 only.
    #[must_use]
    pub fn with_precision(self, precision: Precision) -> Self {
        match self {
            Self::Fused(_) => Self::Fused(precision),
            Self::Plain => Self::Plain,
        }
    }

    /// `act(x Wᵀ + b)`; `x` `[rows, in]`, `w` `[out, in]` (the layout of the checkpoints), `b`
    /// `[out]`; `act` is the exact GELU or nothing.
    #[must_use]
    pub fn linear(self, x: Tensor<2>, w: Tensor<2>, b: Tensor<1>, gelu: bool) -> Tensor<2> {
        match self {
            Self::Fused(precision) => fused::fused3(x, w, b, Op::Linear { gelu, precision }),
            Self::Plain => plain::linear(x, w, b, gelu),
        }
    }

    /// Softmax attention of packed projections `[rows, 3 * width]` (query, key, value).
    #[must_use]
    pub fn attention_packed(self, qkv: Tensor<2>, spec: &Arc<AttentionSpec>) -> Tensor<2> {
        match self {
            Self::Fused(_) => fused::fused1(qkv, Op::AttentionPacked(spec.clone())),
            Self::Plain => {
                let width = qkv.dims()[1] / 3;
                let part = |i: usize| qkv.clone().narrow(1, i * width, width);
                plain::attention(part(0), part(1), part(2), spec)
            }
        }
    }

    /// Softmax attention; `q` `[query rows, width]`, `k` and `v` `[key rows, width]`.
    #[must_use]
    pub fn attention(
        self,
        q: Tensor<2>,
        k: Tensor<2>,
        v: Tensor<2>,
        spec: &Arc<AttentionSpec>,
    ) -> Tensor<2> {
        match self {
            Self::Fused(_) => fused::fused3(q, k, v, Op::Attention(spec.clone())),
            Self::Plain => plain::attention(q, k, v, spec),
        }
    }

    /// `LN(x) * w + b` over the last axis of `x` `[rows, width]`.
    #[must_use]
    pub fn layer_norm(self, x: Tensor<2>, w: Tensor<1>, b: Tensor<1>, eps: f32) -> Tensor<2> {
        match self {
            Self::Fused(_) => fused::fused3(x, w, b, Op::LayerNorm { eps }),
            Self::Plain => plain::layer_norm(x, w, b, eps),
        }
    }

    /// `LN(x + residual) * w + b`, the step between the parts of a BERT layer.
    #[must_use]
    pub fn add_layer_norm(
        self,
        x: Tensor<2>,
        residual: Tensor<2>,
        w: Tensor<1>,
        b: Tensor<1>,
        eps: f32,
    ) -> Tensor<2> {
        match self {
            Self::Fused(_) => fused::fused4(x, residual, w, b, Op::AddLayerNorm { eps }),
            Self::Plain => plain::layer_norm(x + residual, w, b, eps),
        }
    }

    /// Zeroes entries with probability `p` and scales the rest by `1 / (1 - p)`. Entry `i` of the
    /// flattened tensor depends on the seed and `i` alone.
    #[must_use]
    pub fn dropout(self, x: Tensor<2>, dropout: Option<Dropout>) -> Tensor<2> {
        let Some(dropout) = dropout.filter(|d| d.p > 0.0) else { return x };
        match self {
            Self::Fused(_) => fused::fused1(x, Op::Dropout(dropout)),
            Self::Plain => plain::dropout(x, dropout),
        }
    }
}

/// Whether the device (or the one under its autodiff layer) is the CPU back end.
#[must_use]
pub fn is_cpu(device: &Device) -> bool {
    use burn::backend::DispatchDevice;
    matches!(device.clone().inner().as_dispatch(), DispatchDevice::Flex(_))
}

/// Row indices as an integer tensor on `device`.
#[must_use]
pub fn index(rows: &[usize], device: &Device) -> Tensor<1, Int> {
    let rows: Vec<i32> = rows.iter().map(|r| *r as i32).collect();
    let n = rows.len();
    Tensor::from_data(TensorData::new(rows, [n]), device)
}
