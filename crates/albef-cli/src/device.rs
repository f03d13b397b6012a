//! `--device`: where the model computes.

use albef::params::cpu;
use anyhow::{Result, bail};
use burn::tensor::Device;

/// The device of that name.
pub fn open(name: &str) -> Result<Device> {
    match name {
        "cpu" => Ok(cpu()),
        #[cfg(feature = "vulkan")]
        "vulkan" => Ok(Device::vulkan(burn::tensor::DeviceKind::DefaultDevice)),
        #[cfg(feature = "cuda")]
        "cuda" => Ok(Device::cuda(0)),
        "vulkan" | "cuda" => {
            bail!(
                "this build has no `{name}`; build it with `cargo build --release --features {name}`"
            )
        }
        _ => bail!("device `{name}` is not known; there are cpu, vulkan and cuda"),
    }
}
