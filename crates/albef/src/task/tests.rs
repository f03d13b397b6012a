//! What holds for all tasks.
