//! What pickles hold: values that never do anything, however deep they lie within each other.

use std::cell::RefCell;
use std::mem;
use std::rc::Rc;

use crate::tensor::DType;

/// Containers within each other. Checkpoints with an optimiser and its options need about ten.
pub(super) const DEPTH: usize = 64;
/// Axes of a tensor, as many as PyTorch allows. Shapes are copied for each view, so a long one that
/// many views share could ask for all memory.
pub(super) const AXES: usize = 64;

/// A failed read: where and why.
pub(super) type Fail = String;

/// A value of a pickle.
#[derive(Clone, Debug)]
pub(crate) enum Value {
    /// `None`, numbers that do not matter, results of unknown calls.
    Opaque,
    /// A truth value or an integer.
    Int(i64),
    /// A text.
    Str(Rc<str>),
    /// A text that is not Unicode, with what can be shown of it.
    Lossy(Rc<str>),
    /// A tuple.
    Tuple(Rc<Parts>),
    /// A list or set.
    List(Rc<RefCell<Parts>>),
    /// A dictionary, in order: each key before its value.
    Dict(Rc<RefCell<Parts>>),
    /// A name that a file wants to import.
    Global(Rc<str>, Rc<str>),
    /// An object that was not made, by module and name of its class.
    Object(Rc<str>, Rc<str>),
    /// A storage.
    Storage(Rc<Storage>),
    /// A view of a storage.
    Tensor(Rc<View>),
    /// A tensor of a kind that is not read, with its shape where that is known.
    Unread(&'static str, Rc<[usize]>),
}

/// What a container holds.
#[derive(Debug, Default)]
pub(crate) struct Parts {
    pub(super) items: Vec<Value>,
    /// Levels of containers from here down, when the items were put in.
    height: usize,
}

impl Parts {
    fn of(items: Vec<Value>) -> Result<Self, Fail> {
        let height = height_over(&items)?;
        Ok(Self { items, height })
    }

    pub(crate) fn iter(&self) -> std::slice::Iter<'_, Value> {
        self.items.iter()
    }

    /// Keys and values of a dictionary.
    pub(crate) fn pairs(&self) -> impl Iterator<Item = (&Value, &Value)> {
        self.items.as_chunks::<2>().0.iter().map(|[key, value]| (key, value))
    }
}

/// The height of a container of these items.
fn height_over(items: &[Value]) -> Result<usize, Fail> {
    let height = 1 + items.iter().map(Value::height).max().unwrap_or(0);
    if height > DEPTH {
        return Err(format!("values lie more than {DEPTH} levels deep within each other"));
    }
    Ok(height)
}

/// Puts items at the end of a container, which may be among them.
pub(super) fn extend(container: &RefCell<Parts>, items: Vec<Value>) -> Result<(), Fail> {
    let height = height_over(&items)?;
    let mut parts = container.borrow_mut();
    parts.height = parts.height.max(height);
    parts.items.extend(items);
    Ok(())
}

/// Containers are taken apart one by one. A list that is changed after it was put into another one
/// hides its height, and dropping such a chain level by level would overflow the stack.
impl Drop for Parts {
    fn drop(&mut self) {
        let mut pending = mem::take(&mut self.items);
        while let Some(value) = pending.pop() {
            let last = match value {
                Value::Tuple(parts) => Rc::into_inner(parts),
                Value::List(parts) | Value::Dict(parts) => {
                    Rc::into_inner(parts).map(RefCell::into_inner)
                }
                _ => None,
            };
            if let Some(mut parts) = last {
                pending.append(&mut parts.items);
            }
        }
    }
}

/// A storage as named in a pickle.
#[derive(Debug, PartialEq)]
pub(crate) struct Storage {
    pub(crate) dtype: DType,
    /// Bytes of one element, known for types that are not read as well.
    pub(crate) size: usize,
    pub(crate) key: Rc<str>,
    pub(crate) elements: usize,
    /// First element and number of elements, where it is a part of the storage of its key.
    pub(crate) part: Option<(usize, usize)>,
}

/// A strided view of a storage.
#[derive(Debug)]
pub(crate) struct View {
    pub(crate) storage: Rc<Storage>,
    /// Its type, which is the storage's unless that is of bytes.
    pub(crate) dtype: DType,
    pub(crate) offset: usize,
    pub(crate) shape: Vec<usize>,
    pub(crate) stride: Vec<usize>,
}

impl Value {
    pub(super) fn tuple(items: Vec<Value>) -> Result<Self, Fail> {
        Ok(Self::Tuple(Rc::new(Parts::of(items)?)))
    }
    pub(super) fn list(items: Vec<Value>) -> Result<Self, Fail> {
        Ok(Self::List(Rc::new(RefCell::new(Parts::of(items)?))))
    }
    pub(super) fn dict() -> Self {
        Self::Dict(Rc::new(RefCell::new(Parts { items: Vec::new(), height: 1 })))
    }
    fn height(&self) -> usize {
        match self {
            Self::Tuple(parts) => parts.height,
            Self::List(parts) | Self::Dict(parts) => parts.borrow().height,
            _ => 0,
        }
    }
    pub(super) fn size(&self) -> Option<usize> {
        if let Self::Int(i) = self { usize::try_from(*i).ok() } else { None }
    }
    pub(super) fn sizes(&self) -> Option<Vec<usize>> {
        match self {
            Self::Tuple(t) if t.items.len() <= AXES => t.iter().map(Self::size).collect(),
            Self::List(t) if t.borrow().items.len() <= AXES => {
                t.borrow().iter().map(Self::size).collect()
            }
            _ => None,
        }
    }
    pub(crate) fn text(&self) -> Option<&str> {
        if let Self::Str(s) = self { Some(s) } else { None }
    }
}
