//! The objectives: the three of pre-training with what they need (queues, momentum targets, hard
//! negatives, masking; paper section 3.2 and 3.3), and those of the other tasks (spec `losses`).

pub mod answers;
pub mod assignment;
pub mod classify;
pub mod distill;
pub mod itc;
pub mod masking;
pub mod mixgen;
pub mod negatives;
pub mod pretrain;
pub mod queue;
