//! Devices by name: `cpu`, `vulkan[:N]`, `cuda[:N]`.
//!
//! The CPU is always there. The other kinds are cargo features of this crate; such a device is
//! only ever used when it is named, never because a build happens to know it.

use std::panic;

pub use burn::tensor::Device;

use crate::error::{Error, Result};
use crate::ops::Ops;
pub use crate::ops::{Bf16Unit, Precision, bf16_unit};
pub use crate::params::cpu;
use crate::params::{from_vec, to_vec};

/// The precision that products have on a device where `wanted` is asked for: f32 where there is no unit for another one.
#[must_use]
pub fn effective_precision(device: &Device, wanted: Precision) -> Precision {
    Ops::for_device(device).with_precision(wanted).precision()
}

/// A kind of device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// This processor, with the hand-written kernels.
    Cpu,
    /// Any adapter with a Vulkan driver.
    Vulkan,
    /// A CUDA device.
    Cuda,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 3] = [Self::Cpu, Self::Vulkan, Self::Cuda];

    /// The name, which is also that of the cargo feature.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Vulkan => "vulkan",
            Self::Cuda => "cuda",
        }
    }

    /// Whether this build can compute there.
    #[must_use]
    pub fn compiled(self) -> bool {
        match self {
            Self::Cpu => true,
            Self::Vulkan => cfg!(feature = "vulkan"),
            Self::Cuda => cfg!(feature = "cuda"),
        }
    }

    /// The devices of this kind, in the order in which `KIND:N` counts them.
    fn devices(self) -> Vec<Device> {
        match self {
            Self::Cpu => vec![cpu()],
            #[cfg(feature = "vulkan")]
            Self::Vulkan => listed(burn::tensor::DeviceType::Vulkan),
            #[cfg(feature = "cuda")]
            Self::Cuda => listed(burn::tensor::DeviceType::Cuda),
            #[cfg(not(all(feature = "vulkan", feature = "cuda")))]
            _ => Vec::new(),
        }
    }
}

#[cfg(any(feature = "vulkan", feature = "cuda"))]
fn listed(kind: burn::tensor::DeviceType) -> Vec<Device> {
    Device::enumerate(kind).iter().cloned().collect()
}

/// A device that this machine offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// As [`open`] takes it.
    pub name: String,
    /// What it calls itself.
    pub hardware: String,
}

/// The devices of a kind that this build and this machine offer. Asks each driver.
#[must_use]
pub fn found(kind: Kind) -> Vec<Found> {
    if kind == Kind::Cpu {
        return vec![Found { name: "cpu".into(), hardware: "this processor".into() }];
    }
    let devices = quietly(|| kind.devices()).unwrap_or_default();
    let numbered = devices.iter().enumerate();
    numbered
        .map(|(i, d)| Found {
            name: format!("{}:{i}", kind.name()),
            hardware: quietly(|| hardware(d)).unwrap_or_else(|e| format!("cannot be opened: {e}")),
        })
        .collect()
}

/// What a device calls itself, and the language in which kernels reach its driver.
#[cfg(any(feature = "vulkan", feature = "cuda"))]
fn hardware(device: &Device) -> String {
    let name = device.identity().map_or_else(|| format!("{device:?}"), |i| i.name);
    let software = if is_software(device) { ", software" } else { "" };
    format!("{name}{software}, {}", compiler(device))
}

#[cfg(not(any(feature = "vulkan", feature = "cuda")))]
fn hardware(device: &Device) -> String {
    format!("{device:?}")
}

#[cfg(any(feature = "vulkan", feature = "cuda"))]
fn compiler(device: &Device) -> &'static str {
    use burn::backend::DispatchDevice;
    match device.as_dispatch() {
        DispatchDevice::Cube(d) => d.client().name(),
        _ => "",
    }
}

/// Whether a Vulkan driver computes on the processor, which the kernels of `cpu` do better.
#[cfg(feature = "vulkan")]
fn is_software(device: &Device) -> bool {
    use burn::backend::{CubeDevice, DispatchDevice, WgpuDeviceKind};
    matches!(device.as_dispatch(),
        DispatchDevice::Cube(CubeDevice::Wgpu(d)) if d.kind == WgpuDeviceKind::Cpu)
}

#[cfg(all(feature = "cuda", not(feature = "vulkan")))]
fn is_software(_: &Device) -> bool {
    false
}

/// Whether the first kernel would end the program: Mesa's software driver (22.3 and 25.0 tried)
/// crashes on the SPIR-V that Burn writes itself. It computes where kernels reach it as WGSL.
#[cfg(any(feature = "vulkan", feature = "cuda"))]
fn crashes(device: &Device) -> bool {
    is_software(device) && compiler(device).contains("spirv")
}

#[cfg(not(any(feature = "vulkan", feature = "cuda")))]
fn crashes(_: &Device) -> bool {
    false
}

/// Opens the device of that name: `cpu`, `vulkan`, `cuda`, the latter two with `:N` for another
/// than the first. A small product is computed on it, so what opens also computes.
///
/// # Errors
/// If the name is not known, the kind is not compiled in, there is no such device, or it fails.
pub fn open(name: &str) -> Result<Device> {
    let fail = |detail: String| Error::Device { name: name.to_owned(), detail };
    let (kind, number) = parse(name).ok_or_else(|| {
        fail("the devices are `cpu`, `vulkan[:N]` and `cuda[:N]`, N counted from 0".into())
    })?;
    if let Some(detail) = albef_kernels::unknown_isa() {
        return Err(fail(detail));
    }
    let feature = kind.name();
    if !kind.compiled() {
        return Err(fail(format!(
            "this build computes on {}; hint: build with `--features {feature}` (docs/src/explanation/devices.md)",
            compiled_names()
        )));
    }
    let devices = quietly(|| kind.devices())
        .map_err(|e| fail(format!("its driver cannot be asked for devices: {e}")))?;
    let count = devices.len();
    let device = devices.into_iter().nth(number).ok_or_else(|| {
        fail(match count {
            0 => format!(
                "the feature `{feature}` is compiled in, but its driver finds no device on this \
                 machine; hint: install the driver, or compute on `cpu`"
            ),
            n => format!("{n} found: `{feature}:0` to `{feature}:{}`", n - 1),
        })
    })?;
    if quietly(|| crashes(&device)).map_err(|e| fail(format!("it cannot be opened: {e}")))? {
        return Err(fail(
            "a software driver that crashes on these kernels; hint: compute on `cpu`, or, to test, \
             hide its buffer addresses as `scripts/vulkan.sh` does"
                .into(),
        ));
    }
    match quietly(|| product(&device)) {
        Ok(y) if y == [7.0, 10.0, 15.0, 22.0] => Ok(device),
        Ok(y) => Err(fail(format!("it computes wrongly: a 2 x 2 product gave {y:?}"))),
        Err(e) => Err(fail(format!("it does not compute: {e}"))),
    }
}

fn product(device: &Device) -> Vec<f32> {
    let x = from_vec(vec![1.0, 2.0, 3.0, 4.0], [2, 2], device);
    to_vec(x.clone().matmul(x))
}

fn compiled_names() -> String {
    let names = Kind::ALL.iter().filter(|k| k.compiled()).map(|k| format!("`{}`", k.name()));
    names.collect::<Vec<_>>().join(", ")
}

fn parse(name: &str) -> Option<(Kind, usize)> {
    let (kind, number) = name.split_once(':').map_or((name, None), |(k, n)| (k, Some(n)));
    let kind = *Kind::ALL.iter().find(|k| k.name() == kind)?;
    let number = match number {
        None => 0,
        Some(_) if kind == Kind::Cpu => return None,
        Some(n) => n.parse().ok()?,
    };
    Some((kind, number))
}

/// Runs `work`; what a driver's library says in a panic becomes the error. The program's own panic
/// message is held back meanwhile.
fn quietly<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    let hook = panic::take_hook();
    panic::set_hook(Box::new(|_| {}));
    let result = panic::catch_unwind(panic::AssertUnwindSafe(work));
    panic::set_hook(hook);
    result.map_err(|payload| {
        let text = payload.downcast_ref::<String>().map(String::as_str);
        text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("it failed").to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_give_kind_and_number() {
        assert_eq!(parse("cpu"), Some((Kind::Cpu, 0)));
        assert_eq!(parse("vulkan"), Some((Kind::Vulkan, 0)));
        assert_eq!(parse("cuda:3"), Some((Kind::Cuda, 3)));
        for odd in ["", "gpu", "cpu:0", "cuda:", "cuda:-1", "vulkan:x", "CUDA"] {
            assert_eq!(parse(odd), None, "{odd}");
        }
    }

    #[test]
    fn the_cpu_opens_and_what_is_absent_says_how_to_get_it() {
        assert!(crate::ops::is_cpu(&open("cpu").unwrap()));
        for kind in [Kind::Vulkan, Kind::Cuda].into_iter().filter(|k| !k.compiled()) {
            let error = open(kind.name()).unwrap_err().to_string();
            assert!(error.contains(&format!("--features {}", kind.name())), "{error}");
            assert!(found(kind).is_empty());
        }
        assert!(open("tpu").unwrap_err().to_string().contains("`vulkan[:N]`"));
    }

    #[test]
    fn a_panic_of_a_driver_becomes_an_error() {
        let failed: Result<(), String> = quietly(|| panic!("no driver {}", 7));
        assert_eq!(failed.unwrap_err(), "no driver 7");
    }
}
