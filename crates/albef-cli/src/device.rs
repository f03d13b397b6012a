//! `--device`: where the model computes.

use albef::Device;
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
