//! The program as people call it.
//!
//! One binary, since linking the whole library once per file costs more than the tests do.

mod analyse;
mod broken;
mod calibrate;
mod checkpoints;
mod cli;
mod common;
mod compare;
mod convert;
mod data_sets;
mod defaults;
mod demo;
mod disk;
mod doctor;
mod embed;
mod evaluate;
mod failpoints;
mod finite;
mod images;
mod index;
mod kill;
mod lock;
mod messages;
mod odd_data;
mod official_files;
mod output;
mod postgres;
mod pull;
mod readme;
mod refusals;
mod reproduce;
mod results;
mod resume;
mod search;
mod serve;
mod shipped;
mod snapshots;
mod tasks;
