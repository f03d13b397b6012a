//! An inert reader of Python pickles: it builds values and never calls or imports anything.
//!
//! A handful of names from PyTorch have a meaning (storages and the functions that make a tensor of
//! one, in `tensors`); every other callable gives a [`Value::Object`] or [`Value::Opaque`], which is
//! only an error where a tensor is needed.

mod tensors;
mod value;

use std::borrow::Cow;
use std::collections::HashMap;
use std::rc::Rc;

use self::tensors::{cost, inert_call, module_of, storage};
use self::value::{Fail, extend};
pub(crate) use self::value::{Parts, Storage, Value, View};

/// Memory that the values of one pickle may take. Values take up to a hundred times the bytes that
/// describe them; the largest checkpoints, with optimizer and options, need a few megabytes.
const MEMORY: usize = 512 << 20;
/// What one value costs on the stack, in a container or in the memory of repeated values.
const COST: usize = 2 * size_of::<Value>();

/// One pickle.
pub(crate) struct Loaded {
    pub(crate) value: Value,
    /// Bytes of the pickle.
    pub(crate) used: usize,
    /// Every storage that it names.
    pub(crate) storages: Vec<Rc<Storage>>,
}

/// Reads one pickle from the front of `bytes`.
pub(crate) fn load(bytes: &[u8]) -> Result<Loaded, Fail> {
    let mut machine = Machine {
        bytes,
        at: 0,
        stack: vec![],
        marks: vec![],
        memo: HashMap::new(),
        storages: vec![],
        left: MEMORY,
    };
    let value = machine.run().map_err(|e| format!("pickle, byte {}: {e}", machine.at))?;
    Ok(Loaded { value, used: machine.at, storages: machine.storages })
}

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    stack: Vec<Value>,
    marks: Vec<usize>,
    memo: HashMap<u64, Value>,
    storages: Vec<Rc<Storage>>,
    /// Memory that may still be taken.
    left: usize,
}

impl Machine<'_> {
    fn run(&mut self) -> Result<Value, Fail> {
        loop {
            let op = self.take(1)?[0];
            if op == b'.' {
                return self.pop();
            }
            self.pay(COST)?;
            self.step(op)?;
        }
    }

    fn pay(&mut self, bytes: usize) -> Result<(), Fail> {
        let left = self.left.checked_sub(bytes);
        self.left = left.ok_or_else(|| {
            format!("its values take more than the {} MiB that a pickle may take", MEMORY >> 20)
        })?;
        Ok(())
    }

    fn take(&mut self, n: usize) -> Result<&[u8], Fail> {
        let end = self.at.checked_add(n).filter(|e| *e <= self.bytes.len());
        let end = end.ok_or("the file ends in the middle of a pickle")?;
        let part = &self.bytes[self.at..end];
        self.at = end;
        Ok(part)
    }

    /// A little-endian number of `n` bytes.
    fn number(&mut self, n: usize) -> Result<u64, Fail> {
        Ok(self.take(n)?.iter().rev().fold(0, |v, b| (v << 8) | u64::from(*b)))
    }

    fn length(&mut self, n: usize) -> Result<usize, Fail> {
        usize::try_from(self.number(n)?).map_err(|_| "a length beyond all memory".into())
    }

    fn line(&mut self) -> Result<String, Fail> {
        let rest = &self.bytes[self.at..];
        let end = rest.iter().position(|b| *b == b'\n').ok_or("a line without end")?;
        let line = String::from_utf8_lossy(&rest[..end]).into_owned();
        self.at += end + 1;
        self.pay(line.len())?;
        Ok(line)
    }

    /// A text, or the bytes of one, which are another key than the text.
    fn string(&mut self, n: usize, is_text: bool) -> Result<(), Fail> {
        self.pay(n)?;
        let value = match String::from_utf8_lossy(self.take(n)?) {
            Cow::Borrowed(text) if is_text => Value::Str(text.into()),
            shown => Value::Lossy(shown.into()),
        };
        self.stack.push(value);
        Ok(())
    }

    fn pop(&mut self) -> Result<Value, Fail> {
        if self.marks.last().is_some_and(|m| self.stack.len() <= *m) {
            return Err("the stack runs out below a mark".into());
        }
        self.stack.pop().ok_or_else(|| "the stack runs out".into())
    }

    fn down_to_mark(&mut self) -> Result<Vec<Value>, Fail> {
        let mark = self.marks.pop().ok_or("no mark")?;
        Ok(self.stack.split_off(mark.min(self.stack.len())))
    }

    fn tuple(&mut self, n: usize) -> Result<(), Fail> {
        let mut items = (0..n).map(|_| self.pop()).collect::<Result<Vec<_>, _>>()?;
        items.reverse();
        self.stack.push(Value::tuple(items)?);
        Ok(())
    }

    fn remember(&mut self, at: u64) -> Result<(), Fail> {
        let top = self.stack.last().ok_or("nothing to remember")?.clone();
        self.memo.insert(at, top);
        Ok(())
    }

    fn recall(&mut self, at: u64) -> Result<(), Fail> {
        let value = self.memo.get(&at).ok_or("an unknown memory")?.clone();
        self.stack.push(value);
        Ok(())
    }

    fn append(&mut self, items: Vec<Value>) -> Result<(), Fail> {
        match self.stack.last() {
            Some(Value::List(list)) => extend(list, items)?,
            // A list or queue of a class of its own: no place for tensors by name.
            Some(Value::Object(..) | Value::Opaque) => {}
            _ => return Err("appending to what is no list".into()),
        }
        Ok(())
    }

    fn set_items(&mut self, items: Vec<Value>) -> Result<(), Fail> {
        // An object that gets items is a dictionary of a class of its own, as configurations are. One that was
        // remembered stays the object: it is refused where weights are looked for.
        if let Some(top @ Value::Object(..)) = self.stack.last_mut() {
            *top = Value::dict();
        }
        match self.stack.last() {
            Some(Value::Dict(_)) if items.len() % 2 == 1 => {
                return Err("a key without a value".into());
            }
            Some(Value::Dict(dict)) => extend(dict, items)?,
            Some(Value::Opaque) => {}
            _ => return Err("setting items of what is no dictionary".into()),
        }
        Ok(())
    }

    fn integer_of(bytes: &[u8]) -> Value {
        if bytes.len() > 8 {
            return Value::Opaque;
        }
        let negative = bytes.last().is_some_and(|b| b & 0x80 != 0);
        let start = if negative { -1 } else { 0 };
        Value::Int(bytes.iter().rev().fold(start, |v: i64, b| (v << 8) | i64::from(*b)))
    }

    fn step(&mut self, op: u8) -> Result<(), Fail> {
        match op {
            0x80 => drop(self.take(1)?),
            0x95 => drop(self.take(8)?),
            b'(' => self.marks.push(self.stack.len()),
            b'0' => drop(self.pop()?),
            b'1' => drop(self.down_to_mark()?),
            b'2' => {
                let top = self.stack.last().ok_or("nothing to repeat")?.clone();
                self.stack.push(top);
            }
            b'N' => self.stack.push(Value::Opaque),
            0x88 => self.stack.push(Value::Int(1)),
            0x89 => self.stack.push(Value::Int(0)),
            b'}' => self.stack.push(Value::dict()),
            b']' | 0x8f => self.stack.push(Value::list(vec![])?),
            b')' => self.tuple(0)?,
            0x85 => self.tuple(1)?,
            0x86 => self.tuple(2)?,
            0x87 => self.tuple(3)?,
            b't' => {
                let items = self.down_to_mark()?;
                self.stack.push(Value::tuple(items)?);
            }
            b'l' | 0x91 => {
                let items = self.down_to_mark()?;
                self.stack.push(Value::list(items)?);
            }
            b'd' => {
                let items = self.down_to_mark()?;
                self.stack.push(Value::dict());
                self.set_items(items)?;
            }
            b'q' => {
                let at = self.number(1)?;
                self.remember(at)?;
            }
            b'r' => {
                let at = self.number(4)?;
                self.remember(at)?;
            }
            0x94 => self.remember(self.memo.len() as u64)?,
            b'h' => {
                let at = self.number(1)?;
                self.recall(at)?;
            }
            b'j' => {
                let at = self.number(4)?;
                self.recall(at)?;
            }
            b'J' => {
                let value = i64::from(self.number(4)? as u32 as i32);
                self.stack.push(Value::Int(value));
            }
            b'K' | b'M' => {
                let value = self.number(if op == b'K' { 1 } else { 2 })?;
                self.stack.push(Value::Int(value as i64));
            }
            0x8a | 0x8b => {
                let n = self.length(if op == 0x8a { 1 } else { 4 })?;
                let value = Self::integer_of(self.take(n)?);
                self.stack.push(value);
            }
            b'G' => {
                self.take(8)?;
                self.stack.push(Value::Opaque);
            }
            b'X' | b'T' | b'B' => {
                let n = self.length(4)?;
                self.string(n, op != b'B')?;
            }
            0x8c | b'U' | b'C' => {
                let n = self.length(1)?;
                self.string(n, op != b'C')?;
            }
            0x8d | 0x8e | 0x96 => {
                let n = self.length(8)?;
                self.string(n, op == 0x8d)?;
            }
            b'I' | b'L' => {
                let line = self.line()?;
                let value = line.trim_end_matches('L').parse().map_or(Value::Opaque, Value::Int);
                self.stack.push(value);
            }
            b'F' => {
                self.line()?;
                self.stack.push(Value::Opaque);
            }
            b'S' | b'V' => {
                let line = self.line()?;
                let text = if op == b'S' { unescaped(unquoted(&line)) } else { unescaped(&line) };
                self.stack.push(Value::Str(text.into()));
            }
            b'p' => {
                let at = self.line()?.parse().map_err(|_| "a memory without number")?;
                self.remember(at)?;
            }
            b'g' => {
                let at = self.line()?.parse().map_err(|_| "a memory without number")?;
                self.recall(at)?;
            }
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.stack.push(Value::Global(module.into(), name.into()));
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                let value = match (module, name) {
                    (Value::Str(m), Value::Str(n)) => Value::Global(m, n),
                    _ => Value::Opaque,
                };
                self.stack.push(value);
            }
            b'R' | 0x81 | 0x92 => {
                if op == 0x92 {
                    self.pop()?;
                }
                let (arguments, callee) = (self.pop()?, self.pop()?);
                let made = inert_call(&callee, &arguments)?;
                self.pay(cost(&made))?;
                self.stack.push(made);
            }
            b'b' => drop(self.pop()?),
            b'Q' => {
                let id = self.pop()?;
                if let Some(module) = module_of(&id) {
                    self.stack.push(module);
                } else {
                    let storage = Rc::new(storage(&id)?);
                    self.storages.push(storage.clone());
                    self.stack.push(Value::Storage(storage));
                }
            }
            b's' => {
                let (v, k) = (self.pop()?, self.pop()?);
                self.set_items(vec![k, v])?;
            }
            b'u' => {
                let items = self.down_to_mark()?;
                self.set_items(items)?;
            }
            b'a' => {
                let item = self.pop()?;
                self.append(vec![item])?;
            }
            b'e' | 0x90 => {
                let items = self.down_to_mark()?;
                self.append(items)?;
            }
            b'o' | b'i' => {
                if op == b'i' {
                    self.line()?;
                    self.line()?;
                }
                self.down_to_mark()?;
                self.stack.push(Value::Opaque);
            }
            other => return Err(format!("unknown instruction {other:#04x}")),
        }
        Ok(())
    }
}

/// The inside of a quoted text.
fn unquoted(line: &str) -> &str {
    let line = line.trim_end_matches('\r');
    let inside = |quote: char| line.strip_prefix(quote)?.strip_suffix(quote);
    inside('\'').or_else(|| inside('"')).unwrap_or(line)
}

/// A text of the oldest protocol, in which some characters are written with a backslash. What is no
/// known escape stays as it is.
fn unescaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        let hex = |digits: usize| {
            let code = u32::from_str_radix(after.get(1..=digits)?, 16).ok()?;
            char::from_u32(code).map(|c| (c, digits + 1))
        };
        let found = match after.as_bytes().first() {
            Some(b'\\') => Some(('\\', 1)),
            Some(b'\'') => Some(('\'', 1)),
            Some(b'"') => Some(('"', 1)),
            Some(b'n') => Some(('\n', 1)),
            Some(b'r') => Some(('\r', 1)),
            Some(b't') => Some(('\t', 1)),
            Some(b'x') => hex(2),
            Some(b'u') => hex(4),
            Some(b'U') => hex(8),
            _ => None,
        };
        let (c, used) = found.unwrap_or(('\\', 0));
        out.push(c);
        rest = &after[used..];
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::value::{AXES, DEPTH};
    use super::*;

    fn failure(bytes: &[u8]) -> String {
        load(bytes).err().unwrap_or_default()
    }

    /// `levels` containers within each other, then `end`.
    fn nested(open: &[u8], close: &[u8], levels: usize, end: &[u8]) -> Vec<u8> {
        [open.repeat(levels), close.repeat(levels), end.to_vec()].concat()
    }

    #[test]
    fn values_nested_beyond_the_limit_are_refused() {
        let tuples = |n: usize| nested(b"", b"\x85", n, b".");
        let around_none = |n: usize| [b"N".to_vec(), tuples(n)].concat();
        assert!(load(&around_none(DEPTH)).is_ok());
        for bytes in [
            around_none(DEPTH + 1),
            around_none(1_000_000),
            nested(b"(", b"t", 1_000_000, b"."),
            nested(b"]", b"a", 1_000_000, b"."),
            [b"N".to_vec(), nested(b"", b"\x85", 1_000_000, b"0N.")].concat(),
        ] {
            assert!(failure(&bytes).contains("64 levels deep"), "{}", failure(&bytes));
        }
    }

    #[test]
    fn a_chain_of_lists_that_hides_its_depth_is_dropped_without_recursion() {
        // Each new list goes into the one before, which already lies in another.
        let mut bytes = b"]q\x00]q\x01a0".to_vec();
        for i in 0..300_000 {
            let (outer, inner) = (1 + (i % 2) as u8, 1 + ((i + 1) % 2) as u8);
            bytes.extend_from_slice(&[b'h', outer, b']', b'q', inner, b'a', b'0']);
        }
        bytes.extend_from_slice(b"N.");
        assert!(load(&bytes).is_ok());
    }

    #[test]
    fn a_list_in_itself_and_a_key_without_a_value_do_no_harm() {
        assert!(load(b"]q\x00h\x00a.").is_ok());
        assert!(failure(b"}(K\x01u.").contains("without a value"));
    }

    #[test]
    fn a_shape_with_more_axes_than_pytorch_knows_is_refused() {
        let id = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000NK\x01tQ";
        let view = |axes: usize| {
            let ones = [b"(".to_vec(), b"K\x01".repeat(axes), b"t".to_vec()].concat();
            let head = b"ctorch._utils\n_rebuild_tensor_v2\n(".to_vec();
            [head, id.to_vec(), b"K\x00".to_vec(), ones.clone(), ones, b"tR.".to_vec()].concat()
        };
        assert!(load(&view(AXES)).is_ok());
        assert!(failure(&view(AXES + 1)).contains("64 axes"));
    }
}
