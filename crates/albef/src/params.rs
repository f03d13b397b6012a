//! The weights as a named list: what is trained, averaged, saved and loaded.

use std::collections::HashMap;
use std::path::Path;

use albef_kernels::largest;
use burn::tensor::{Device, Tensor, TensorData};

use crate::error::{Error, Result};
use crate::model::{Leaf, Weights};
use crate::ops::{self, Ops};

/// One tensor of a [`Params`].
#[derive(Clone, Debug)]
pub struct Param {
    /// Official name.
    pub name: String,
    /// Shape in checkpoints.
    pub shape: Vec<usize>,
    /// Values in row-major order, untracked.
    pub value: Tensor<1>,
}

/// Named tensors in the order of the official module, on one device, without gradients.
///
/// Models are functions of weights: [`Params::frozen`] and [`Params::trainable`] hand them out,
/// the latter as leaves of a gradient computation.
#[derive(Clone, Debug)]
pub struct Params {
    entries: Vec<Param>,
    place: HashMap<String, usize>,
    device: Device,
}

impl Params {
    /// An empty list on `device`.
    #[must_use]
    pub fn new(device: &Device) -> Self {
        Self { entries: Vec::new(), place: HashMap::new(), device: device.clone().inner() }
    }

    /// Adds or replaces a tensor.
    ///
    /// # Errors
    /// If the number of values is not that of the shape.
    pub fn insert(&mut self, name: &str, shape: &[usize], values: Vec<f32>) -> Result<()> {
        let n = values.len();
        if n != shape.iter().product::<usize>() {
            return Err(Error::WeightShape {
                key: name.to_owned(),
                expected: shape.to_vec(),
                found: vec![n],
            });
        }
        let value = Tensor::from_data(TensorData::new(values, [n]), &self.device);
        let param = Param { name: name.to_owned(), shape: shape.to_vec(), value };
        match self.place.get(name) {
            Some(at) => self.entries[*at] = param,
            None => {
                self.place.insert(name.to_owned(), self.entries.len());
                self.entries.push(param);
            }
        }
        Ok(())
    }

    /// The tensors in order.
    #[must_use]
    pub fn entries(&self) -> &[Param] {
        &self.entries
    }

    /// The tensors in order, to be changed in value.
    pub fn values_mut(&mut self) -> impl Iterator<Item = (&str, &mut Tensor<1>)> {
        self.entries.iter_mut().map(|p| (p.name.as_str(), &mut p.value))
    }

    /// The tensor of that name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Param> {
        self.place.get(name).map(|i| &self.entries[*i])
    }

    /// The tensor of that name, to be changed in value.
    pub fn value_mut(&mut self, name: &str) -> Option<&mut Tensor<1>> {
        self.place.get(name).map(|i| &mut self.entries[*i].value)
    }

    /// Where the tensors lie.
    #[must_use]
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// An error that names the first tensor with a value that is not finite. `place`: the file.
    ///
    /// # Errors
    /// If there is one.
    pub fn check_finite(&self, place: &Path, hint: &'static str) -> Result<()> {
        let bad = self.entries.iter().find(|p| !largest(&to_vec(p.value.clone())).is_finite());
        bad.map_or(Ok(()), |p| {
            let (place, key) = (format!("`{}`", place.display()), p.name.clone());
            Err(Error::WeightNotFinite { place, key, hint })
        })
    }

    /// Number of values.
    #[must_use]
    pub fn count(&self) -> usize {
        self.entries.iter().map(|p| p.value.dims()[0]).sum()
    }

    /// Weights for evaluation, momentum and targets: nothing is recorded.
    #[must_use]
    pub fn frozen(&self, ops: Ops) -> Weights {
        let leaves = self.leaves(|p| p.value.clone());
        Weights::new(leaves, ops, self.device.clone())
    }

    /// Weights as leaves of a gradient computation.
    #[must_use]
    pub fn trainable(&self, ops: Ops) -> Weights {
        let leaves = self.leaves(|p| Tensor::from_inner(p.value.clone()).require_grad());
        Weights::new(leaves, ops, self.device.clone().autodiff())
    }

    /// Weights as constants of a gradient computation, for derivatives with respect to something
    /// else than weights.
    #[must_use]
    pub fn constant(&self, ops: Ops) -> Weights {
        let leaves = self.leaves(|p| Tensor::from_inner(p.value.clone()));
        Weights::new(leaves, ops, self.device.clone().autodiff())
    }

    fn leaves(&self, value: impl Fn(&Param) -> Tensor<1>) -> HashMap<String, Leaf> {
        self.entries
            .iter()
            .map(|p| (p.name.clone(), Leaf { value: value(p), shape: p.shape.clone() }))
            .collect()
    }
}

/// Takes the values out of a tensor without copying where the CPU back end owns them alone, and
/// leaves an empty tensor behind.
#[must_use]
pub fn take_vec(tensor: &mut Tensor<1>) -> Vec<f32> {
    let empty = Tensor::from_data(TensorData::new(Vec::<f32>::new(), [0]), &tensor.device());
    let full = std::mem::replace(tensor, empty);
    to_vec(full)
}

/// The values of a tensor in row-major order.
#[must_use]
pub fn to_vec<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_into_vec::<f32>().expect("the model computes in f32")
}

/// The values of what a model gives, `what` in words.
///
/// # Errors
/// [`Error::OutputNotFinite`] if some are not finite: nothing that is made of them means anything.
pub fn outputs<const D: usize>(tensor: Tensor<D>, what: &'static str) -> Result<Vec<f32>> {
    let values = to_vec(tensor);
    match values.iter().all(|v| v.is_finite()) {
        true => Ok(values),
        false => Err(Error::OutputNotFinite { what }),
    }
}

/// A tensor of the given values.
#[must_use]
pub fn from_vec<const D: usize>(values: Vec<f32>, shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::from_data(TensorData::new(values, shape), device)
}

/// The CPU back end, without gradients.
#[must_use]
pub fn cpu() -> Device {
    let device = Device::flex();
    debug_assert!(ops::is_cpu(&device));
    device
}

/// `[rows, columns]` to `[columns, rows]`.
#[must_use]
pub fn transposed(data: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    let mut out = vec![0.0; data.len()];
    for r in 0..rows {
        for c in 0..columns {
            out[c * rows + r] = data[r * columns + c];
        }
    }
    out
}
