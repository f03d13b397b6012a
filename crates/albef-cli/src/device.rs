//! `--device`: where the model computes.

use albef::params::cpu;
use anyhow::{Result, bail};
use burn::tensor::Device;

/// The device of that name.
pub fn open(name: &str) -> Result<Device> {
    match name {
        "cpu" => Ok(cpu()),
        _ => bail!("device `{name}` is not known; this version computes on the cpu"),
    }
}
