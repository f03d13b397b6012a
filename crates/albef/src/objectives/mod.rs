//! The three objectives of pre-training and what they need: queues, momentum targets, hard
//! negatives, masking (paper section 3.2 and 3.3, spec `losses`).

pub mod itc;
pub mod masking;
pub mod negatives;
pub mod pretrain;
pub mod queue;
