//! The CPU kernels of ALBEF: slices in, slices out; no tensors, no input or output.
//!
//! Every kernel runs on any processor; AVX-512 and AVX2 variants are chosen once, at run time.
//! Results do not depend on the number of threads or on their timing: work is cut into fixed
//! parts and each sum is formed by one thread in a fixed order.
//!
//! Slices of wrong length are a mistake of the caller and panic with the lengths in the text.

mod attention;
mod bf16;
mod elementwise;
mod gemm;
mod isa;
mod linear;
mod norm;
mod operands;
mod random;
#[cfg(target_arch = "x86_64")]
mod transpose;
mod update;

pub use attention::{
    AttentionSpec, Heads, Segment, attention, attention_backward, attention_backward_packed,
    attention_dropout_keeps,
};
pub use bf16::{Bf16Unit, Precision, bf16_unit};
pub use elementwise::{gelu, gelu_backward};
pub use isa::{Isa, detected, features, unknown_isa};
pub use linear::{
    Activation, Weight, linear, linear_backward_bias, linear_backward_input,
    linear_backward_weight, linear_gelu_keep,
};
pub use norm::{layer_norm, layer_norm_backward};
pub use random::{Dropout, dropout, uniform};
pub use update::{AdamW, adamw, ema, largest};
