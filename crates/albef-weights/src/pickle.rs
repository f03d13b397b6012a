//! An inert reader of Python pickles: it builds values and never calls or imports anything.
//!
//! A handful of names from PyTorch have a meaning (storages and the functions that make a tensor of
//! one); every other callable gives an [`Value::Opaque`], which is only an error where a tensor is
//! needed.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use crate::tensor::DType;

/// A value of a pickle.
#[derive(Clone, Debug)]
pub(crate) enum Value {
    /// `None`, numbers that do not matter, results of unknown calls.
    Opaque,
    /// A truth value or an integer.
    Int(i64),
    /// A text.
    Str(Rc<str>),
    /// A tuple.
    Tuple(Rc<Vec<Value>>),
    /// A list or set.
    List(Rc<RefCell<Vec<Value>>>),
    /// A dictionary, in order.
    Dict(Rc<RefCell<Vec<(Value, Value)>>>),
    /// A name that a file wants to import.
    Global(Rc<str>, Rc<str>),
    /// A storage.
    Storage(Rc<Storage>),
    /// A view of a storage.
    Tensor(Rc<View>),
}

/// A storage as named in a pickle.
#[derive(Debug, PartialEq)]
pub(crate) struct Storage {
    pub(crate) dtype: DType,
    pub(crate) key: String,
    pub(crate) elements: usize,
}

/// A strided view of a storage.
#[derive(Debug)]
pub(crate) struct View {
    pub(crate) storage: Rc<Storage>,
    pub(crate) offset: usize,
    pub(crate) shape: Vec<usize>,
    pub(crate) stride: Vec<usize>,
}

impl Value {
    fn list(items: Vec<Value>) -> Self {
        Self::List(Rc::new(RefCell::new(items)))
    }
    fn dict() -> Self {
        Self::Dict(Rc::new(RefCell::new(Vec::new())))
    }
    fn size(&self) -> Option<usize> {
        if let Self::Int(i) = self { usize::try_from(*i).ok() } else { None }
    }
    fn sizes(&self) -> Option<Vec<usize>> {
        match self {
            Self::Tuple(t) => t.iter().map(Self::size).collect(),
            Self::List(t) => t.borrow().iter().map(Self::size).collect(),
            _ => None,
        }
    }
    pub(crate) fn text(&self) -> Option<&str> {
        if let Self::Str(s) = self { Some(s) } else { None }
    }
}

/// A failed read: where and why.
type Fail = String;

/// Reads one pickle from the front of `bytes`; gives the value and the bytes used.
pub(crate) fn load(bytes: &[u8]) -> Result<(Value, usize), Fail> {
    let mut machine = Machine { bytes, at: 0, stack: vec![], marks: vec![], memo: HashMap::new() };
    let value = machine.run().map_err(|e| format!("pickle, byte {}: {e}", machine.at))?;
    Ok((value, machine.at))
}

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    stack: Vec<Value>,
    marks: Vec<usize>,
    memo: HashMap<u64, Value>,
}

impl Machine<'_> {
    fn run(&mut self) -> Result<Value, Fail> {
        loop {
            let op = self.take(1)?[0];
            if op == b'.' {
                return self.pop();
            }
            self.step(op)?;
        }
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
        Ok(line)
    }

    fn string(&mut self, n: usize) -> Result<(), Fail> {
        let text: Rc<str> = String::from_utf8_lossy(self.take(n)?).into();
        self.stack.push(Value::Str(text));
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
        self.stack.push(Value::Tuple(Rc::new(items)));
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
            Some(Value::List(list)) => list.borrow_mut().extend(items),
            Some(Value::Opaque) => {}
            _ => return Err("appending to what is no list".into()),
        }
        Ok(())
    }

    fn set_items(&mut self, items: Vec<Value>) -> Result<(), Fail> {
        match self.stack.last() {
            Some(Value::Dict(dict)) => {
                let mut items = items.into_iter();
                while let (Some(k), Some(v)) = (items.next(), items.next()) {
                    dict.borrow_mut().push((k, v));
                }
            }
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
            b']' | 0x8f => self.stack.push(Value::list(vec![])),
            b')' => self.tuple(0)?,
            0x85 => self.tuple(1)?,
            0x86 => self.tuple(2)?,
            0x87 => self.tuple(3)?,
            b't' => {
                let items = self.down_to_mark()?;
                self.stack.push(Value::Tuple(Rc::new(items)));
            }
            b'l' | 0x91 => {
                let items = self.down_to_mark()?;
                self.stack.push(Value::list(items));
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
                self.string(n)?;
            }
            0x8c | b'U' | b'C' => {
                let n = self.length(1)?;
                self.string(n)?;
            }
            0x8d | 0x8e | 0x96 => {
                let n = self.length(8)?;
                self.string(n)?;
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
            b'R' | 0x81 => {
                let (arguments, callee) = (self.pop()?, self.pop()?);
                self.stack.push(inert_call(&callee, &arguments)?);
            }
            0x92 => {
                self.pop()?;
                let (arguments, callee) = (self.pop()?, self.pop()?);
                self.stack.push(inert_call(&callee, &arguments)?);
            }
            b'b' => drop(self.pop()?),
            b'Q' => {
                let id = self.pop()?;
                self.stack.push(storage(&id)?);
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

/// What a call would give, for the few callables that only describe tensors.
fn inert_call(callee: &Value, arguments: &Value) -> Result<Value, Fail> {
    let Value::Global(module, name) = callee else { return Ok(Value::Opaque) };
    let Value::Tuple(arguments) = arguments else { return Ok(Value::Opaque) };
    match (&**module, &**name) {
        ("collections", "OrderedDict") => Ok(Value::dict()),
        ("torch._utils", "_rebuild_parameter") => {
            Ok(arguments.first().cloned().unwrap_or(Value::Opaque))
        }
        ("torch._utils", "_rebuild_tensor_v2" | "_rebuild_tensor") => {
            let view = || {
                let Value::Storage(storage) = arguments.first()? else { return None };
                let shape = arguments.get(2)?.sizes()?;
                let stride = arguments.get(3)?.sizes()?;
                let offset = arguments.get(1)?.size()?;
                (shape.len() == stride.len()).then(|| View {
                    storage: storage.clone(),
                    offset,
                    shape,
                    stride,
                })
            };
            let view = view().ok_or("a tensor without storage, offset, shape or strides")?;
            Ok(Value::Tensor(Rc::new(view)))
        }
        _ => Ok(Value::Opaque),
    }
}

/// The storage that a persistent id `('storage', type, key, location, elements, ..)` names.
fn storage(id: &Value) -> Result<Value, Fail> {
    let parts = || {
        let Value::Tuple(id) = id else { return None };
        let Value::Global(_, kind) = id.get(1)? else { return None };
        let dtype = match &**kind {
            "DoubleStorage" => DType::F64,
            "FloatStorage" => DType::F32,
            "HalfStorage" => DType::F16,
            "BFloat16Storage" => DType::BF16,
            "LongStorage" => DType::I64,
            "IntStorage" => DType::I32,
            "ShortStorage" => DType::I16,
            "CharStorage" => DType::I8,
            "ByteStorage" | "UntypedStorage" => DType::U8,
            "BoolStorage" => DType::Bool,
            _ => return None,
        };
        let key = id.get(2)?.text()?.to_owned();
        Some(Storage { dtype, key, elements: id.get(4)?.size()? })
    };
    let storage = parts().ok_or("a storage of unknown kind")?;
    Ok(Value::Storage(Rc::new(storage)))
}
