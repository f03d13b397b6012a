//! Numbers and names in messages.

/// A number with its noun: `1 tensor`, `2 tensors`.
pub(crate) fn counted(n: usize, noun: &str) -> String {
    if n == 1 { format!("1 {noun}") } else { format!("{n} {noun}s") }
}

/// The verb for so many.
pub(crate) fn is(n: usize) -> &'static str {
    if n == 1 { "is" } else { "are" }
}

/// The first two of some names.
pub(crate) fn some(names: &[String]) -> String {
    let shown = names.iter().take(2).map(|n| format!("`{n}`")).collect::<Vec<_>>().join(", ");
    if names.len() > 2 { format!("{shown}, …") } else { shown }
}
