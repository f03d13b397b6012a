//! `--device` and `--precision`: where and how exactly the model computes.

use albef::Device;
use albef::device::{Precision, effective_precision};
use anyhow::Result;

/// The option of all commands that compute.
#[derive(clap::Args)]
pub struct DeviceArg {
    /// Where to compute: `cpu`, or `vulkan[:N]` or `cuda[:N]` in builds with that feature.
    #[arg(long, default_value = "cpu", value_name = "DEVICE")]
    pub device: String,
}

impl DeviceArg {
    /// The device.
    pub fn open(&self) -> Result<Device> {
        open(&self.device)
    }
}

/// The device of that name.
pub fn open(name: &str) -> Result<Device> {
    Ok(albef::device::open(name)?)
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Rounding {
    F32,
    Bf16,
}

/// The option of all commands that use a model.
#[derive(clap::Args)]
pub struct PrecisionArg {
    /// What the factors of matrix products are rounded to: `f32` for not at all, or `bf16`, which is faster on processors
    /// with a unit for it (`albef doctor`) and moves scores a little.
    #[arg(
        long,
        value_enum,
        value_name = "PRECISION",
        default_value = "f32",
        hide_possible_values = true
    )]
    precision: Rounding,
}

impl PrecisionArg {
    /// The precision that products have on a device. Says so where it has no unit for the one wanted.
    pub fn on(&self, device: &Device) -> Precision {
        let wanted = match self.precision {
            Rounding::F32 => Precision::F32,
            Rounding::Bf16 => Precision::Bf16,
        };
        let found = effective_precision(device, wanted);
        if found != wanted {
            tracing::info!("there is no unit for bf16 here; products are of f32 factors");
        }
        found
    }
}
