//! Run-time dispatch and gradients of the fused operations.
//!
//! All of them share one shape: some tensors in, one tensor out, a forward pass that may keep
//! intermediates and a backward pass that returns the gradients that are wanted. [`Op`] names the
//! operation, so that one implementation per number of inputs serves them all.

use std::sync::Arc;

use albef_kernels::{Dropout, Precision};
use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops as AutodiffOps, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, backend_extension};
use burn::tensor::Tensor;

use super::AttentionSpec;

/// A fused operation and its settings.
#[derive(Clone, Debug)]
pub enum Op {
    /// `act(x Wᵀ + b)` of `(x, w, b)`.
    Linear {
        /// Whether the exact GELU follows.
        gelu: bool,
        /// What the factors are rounded to, in both passes.
        precision: Precision,
    },
    /// Layer norm of `(x, w, b)`.
    LayerNorm {
        /// Added to the variance.
        eps: f32,
    },
    /// Layer norm of the sum of the first two of `(x, residual, w, b)`.
    AddLayerNorm {
        /// Added to the variance.
        eps: f32,
    },
    /// Attention of `(q, k, v)`.
    Attention(Arc<AttentionSpec>),
    /// Attention of one packed `qkv`.
    AttentionPacked(Arc<AttentionSpec>),
    /// Dropout of `x`.
    Dropout(Dropout),
}

/// The fused operations by their number of inputs.
#[backend_extension(Flex, Autodiff)]
pub trait FusedOps: Backend {
    /// One input.
    fn fused1(x: FloatTensor<Self>, op: Op) -> FloatTensor<Self>;
    /// Three inputs.
    fn fused3(
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        c: FloatTensor<Self>,
        op: Op,
    ) -> FloatTensor<Self>;
    /// Four inputs.
    fn fused4(
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        c: FloatTensor<Self>,
        d: FloatTensor<Self>,
        op: Op,
    ) -> FloatTensor<Self>;
}

/// Forward and backward of [`Op`] on a back end.
pub trait FusedKernels: Backend {
    /// The result and, if `keep`, what the backward pass needs besides the inputs.
    fn forward<const N: usize>(
        op: &Op,
        inputs: [FloatTensor<Self>; N],
        keep: bool,
    ) -> (FloatTensor<Self>, Vec<FloatTensor<Self>>);

    /// The gradients for which `wanted` is set.
    fn backward<const N: usize>(
        op: &Op,
        inputs: [FloatTensor<Self>; N],
        kept: Vec<FloatTensor<Self>>,
        d_out: FloatTensor<Self>,
        wanted: [bool; N],
    ) -> [Option<FloatTensor<Self>>; N];
}

impl FusedOps for Flex {
    fn fused1(x: FloatTensor<Self>, op: Op) -> FloatTensor<Self> {
        Self::forward(&op, [x], false).0
    }
    fn fused3(
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        c: FloatTensor<Self>,
        op: Op,
    ) -> FloatTensor<Self> {
        Self::forward(&op, [a, b, c], false).0
    }
    fn fused4(
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        c: FloatTensor<Self>,
        d: FloatTensor<Self>,
        op: Op,
    ) -> FloatTensor<Self> {
        Self::forward(&op, [a, b, c, d], false).0
    }
}

#[derive(Debug)]
struct Step<const N: usize>;

#[derive(Clone, Debug)]
struct Kept<T, const N: usize> {
    op: Op,
    inputs: [NodeId; N],
    tensors: Vec<T>,
}

impl<B: FusedKernels, const N: usize> Backward<B, N> for Step<N> {
    type State = Kept<FloatTensor<B>, N>;

    fn backward(
        self,
        ops: AutodiffOps<Self::State, N>,
        grads: &mut Gradients,
        checkpointer: &mut Checkpointer,
    ) {
        let d_out = grads.consume::<B>(&ops.node);
        let state = ops.state;
        let inputs = state.inputs.map(|id| checkpointer.retrieve_node_output::<FloatTensor<B>>(id));
        let wanted = std::array::from_fn(|i| ops.parents[i].is_some());
        let gradients = B::backward(&state.op, inputs, state.tensors, d_out, wanted);
        for (node, gradient) in ops.parents.into_iter().zip(gradients) {
            if let (Some(node), Some(gradient)) = (node, gradient) {
                grads.register::<B>(node.id, gradient);
            }
        }
    }
}

fn run<B: FusedKernels, C: CheckpointStrategy, const N: usize>(
    inputs: [FloatTensor<Autodiff<B, C>>; N],
    op: Op,
) -> FloatTensor<Autodiff<B, C>> {
    let nodes = std::array::from_fn(|i| inputs[i].node());
    match Step::<N>.prepare::<C>(nodes).compute_bound().stateful() {
        OpsKind::Tracked(mut prep) => {
            let ids = std::array::from_fn(|i| prep.checkpoint(&inputs[i]));
            let inputs = inputs.map(|x| x.into_primitive());
            let (out, tensors) = B::forward(&op, inputs, true);
            prep.finish(Kept { op, inputs: ids, tensors }, out)
        }
        OpsKind::UnTracked(prep) => {
            let inputs = inputs.map(|x| x.into_primitive());
            prep.finish(B::forward(&op, inputs, false).0)
        }
    }
}

impl<B: FusedKernels, C: CheckpointStrategy> FusedOps for Autodiff<B, C> {
    fn fused1(x: FloatTensor<Self>, op: Op) -> FloatTensor<Self> {
        run::<B, C, 1>([x], op)
    }
    fn fused3(
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        c: FloatTensor<Self>,
        op: Op,
    ) -> FloatTensor<Self> {
        run::<B, C, 3>([a, b, c], op)
    }
    fn fused4(
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        c: FloatTensor<Self>,
        d: FloatTensor<Self>,
        op: Op,
    ) -> FloatTensor<Self> {
        run::<B, C, 4>([a, b, c, d], op)
    }
}

/// An operation of one tensor.
pub(super) fn fused1(x: Tensor<2>, op: Op) -> Tensor<2> {
    Tensor::from_dispatch(<Dispatch as FusedOps>::fused1(x.into_dispatch(), op))
}

/// An operation of three tensors.
pub(super) fn fused3<const R: usize, const S: usize>(
    a: Tensor<2>,
    b: Tensor<R>,
    c: Tensor<S>,
    op: Op,
) -> Tensor<2> {
    Tensor::from_dispatch(<Dispatch as FusedOps>::fused3(
        a.into_dispatch(),
        b.into_dispatch(),
        c.into_dispatch(),
        op,
    ))
}

/// An operation of four tensors.
pub(super) fn fused4(a: Tensor<2>, b: Tensor<2>, c: Tensor<1>, d: Tensor<1>, op: Op) -> Tensor<2> {
    Tensor::from_dispatch(<Dispatch as FusedOps>::fused4(
        a.into_dispatch(),
        b.into_dispatch(),
        c.into_dispatch(),
        d.into_dispatch(),
        op,
    ))
}
