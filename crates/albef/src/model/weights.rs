//! Named weights as the model sees them.

use std::collections::HashMap;

use burn::tensor::{Device, Tensor};

use crate::error::{Error, Result};
use crate::ops::{Ops, is_cpu};

/// One weight: its values in a row, and its shape in the checkpoint.
#[derive(Clone, Debug)]
pub struct Leaf {
    /// The values, flattened in row-major order.
    pub value: Tensor<1>,
    /// The shape under which checkpoints store it.
    pub shape: Vec<usize>,
}

/// The weights of a model by their official names, all on one device.
#[derive(Clone, Debug)]
pub struct Weights {
    leaves: HashMap<String, Leaf>,
    ops: Ops,
    device: Device,
}

impl Weights {
    /// Gathers leaves; `ops` decides how the model built from them computes. The fused kernels
    /// exist on the CPU alone: elsewhere the model computes by plain operations in any case.
    #[must_use]
    pub fn new(leaves: HashMap<String, Leaf>, ops: Ops, device: Device) -> Self {
        let ops = if is_cpu(&device) { ops } else { Ops::for_device(&device) };
        Self { leaves, ops, device }
    }

    /// The weights below `prefix`, for instance `visual_encoder`.
    #[must_use]
    pub fn scope(&self, prefix: &str) -> Scope<'_> {
        Scope { weights: self, prefix: prefix.to_owned() }
    }

    /// The leaf of that name.
    #[must_use]
    pub fn leaf(&self, name: &str) -> Option<&Leaf> {
        self.leaves.get(name)
    }

    /// Where the weights lie.
    #[must_use]
    pub fn device(&self) -> &Device {
        &self.device
    }
}

/// Weights whose names begin with a common prefix.
#[derive(Clone, Debug)]
pub struct Scope<'a> {
    weights: &'a Weights,
    prefix: String,
}

impl Scope<'_> {
    /// A deeper scope.
    #[must_use]
    pub fn at(&self, name: &str) -> Self {
        Self { weights: self.weights, prefix: format!("{}.{name}", self.prefix) }
    }

    /// How the model computes.
    #[must_use]
    pub fn ops(&self) -> Ops {
        self.weights.ops
    }

    /// Whether there is a weight `name`.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.weights.leaf(&format!("{}.{name}", self.prefix)).is_some()
    }

    /// The weight `name` in the given shape.
    ///
    /// # Errors
    /// If it is absent or holds another number of values.
    pub fn tensor<const D: usize>(&self, name: &str, shape: [usize; D]) -> Result<Tensor<D>> {
        let key =
            if name.is_empty() { self.prefix.clone() } else { format!("{}.{name}", self.prefix) };
        let Some(leaf) = self.weights.leaves.get(&key) else {
            return Err(Error::MissingWeight { key });
        };
        if leaf.value.dims()[0] != shape.iter().product::<usize>() {
            return Err(Error::WeightShape {
                key,
                expected: shape.to_vec(),
                found: leaf.shape.clone(),
            });
        }
        Ok(leaf.value.clone().reshape(shape))
    }
}

/// `act(x Wᵀ + b)`.
#[derive(Clone, Debug)]
pub struct Linear {
    weight: Tensor<2>,
    bias: Tensor<1>,
    ops: Ops,
}

impl Linear {
    /// Reads `weight` `[outputs, inputs]` and `bias` `[outputs]`.
    ///
    /// # Errors
    /// If one is absent or of another size.
    pub fn new(scope: &Scope<'_>, inputs: usize, outputs: usize) -> Result<Self> {
        let weight = scope.tensor("weight", [outputs, inputs])?;
        let bias = scope.tensor("bias", [outputs])?;
        Ok(Self { weight, bias, ops: scope.ops() })
    }

    /// From tensors at hand, `weight` `[outputs, inputs]`.
    #[must_use]
    pub fn from_parts(weight: Tensor<2>, bias: Tensor<1>, ops: Ops) -> Self {
        Self { weight, bias, ops }
    }

    /// `[rows, inputs]` to `[rows, outputs]`.
    #[must_use]
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        self.ops.linear(x, self.weight.clone(), self.bias.clone(), false)
    }

    /// The same, followed by the exact GELU.
    #[must_use]
    pub fn forward_gelu(&self, x: Tensor<2>) -> Tensor<2> {
        self.ops.linear(x, self.weight.clone(), self.bias.clone(), true)
    }
}

/// Layer norm over the last axis.
#[derive(Clone, Debug)]
pub struct LayerNorm {
    weight: Tensor<1>,
    bias: Tensor<1>,
    eps: f32,
    ops: Ops,
}

impl LayerNorm {
    /// Reads `weight` and `bias`, both `[width]`.
    ///
    /// # Errors
    /// If one is absent or of another size.
    pub fn new(scope: &Scope<'_>, width: usize, eps: f32) -> Result<Self> {
        let weight = scope.tensor("weight", [width])?;
        let bias = scope.tensor("bias", [width])?;
        Ok(Self { weight, bias, eps, ops: scope.ops() })
    }

    /// `LN(x)`.
    #[must_use]
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        self.ops.layer_norm(x, self.weight.clone(), self.bias.clone(), self.eps)
    }

    /// `LN(x + residual)`.
    #[must_use]
    pub fn forward_add(&self, x: Tensor<2>, residual: Tensor<2>) -> Tensor<2> {
        self.ops.add_layer_norm(x, residual, self.weight.clone(), self.bias.clone(), self.eps)
    }
}
