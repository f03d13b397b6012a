//! The callables of PyTorch that describe tensors, and what they describe.

use std::rc::Rc;

use super::value::{Fail, Storage, Value, View, extend};
use crate::tensor::DType;

/// What a call would give, for the few callables that only describe tensors or make containers.
pub(super) fn inert_call(callee: &Value, arguments: &Value) -> Result<Value, Fail> {
    let Value::Global(module, name) = callee else { return Ok(Value::Opaque) };
    let Value::Tuple(tuple) = arguments else { return Ok(object(module, name)) };
    let arguments = &tuple.items[..];
    let first = || arguments.first().cloned().unwrap_or(Value::Opaque);
    let unread = |kind: &'static str, shape: usize| {
        let shape = arguments.get(shape).and_then(Value::sizes).unwrap_or_default();
        Ok(Value::Unread(kind, shape.into()))
    };
    match (&**module, &**name) {
        ("collections", "OrderedDict") | ("builtins" | "__builtin__", "dict") => {
            let dict = Value::dict();
            fill(&dict, arguments.first())?;
            Ok(dict)
        }
        ("collections", "defaultdict") => Ok(Value::dict()),
        ("torch", "Size") => Ok(first()),
        ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state")
        | ("torch.nn.parameter", "Parameter" | "Buffer") => Ok(first()),
        ("torch._tensor", "_rebuild_from_type" | "_rebuild_from_type_v2") => match arguments {
            [inner @ Value::Global(..), _, arguments, ..] => match inert_call(inner, arguments)? {
                tensor @ (Value::Tensor(_) | Value::Unread(..)) => Ok(tensor),
                _ => unread("a tensor of its own class", usize::MAX),
            },
            _ => unread("a tensor of its own class", usize::MAX),
        },
        ("torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2" | "_rebuild_tensor_v3") => {
            view(arguments, &**name == "_rebuild_tensor_v3")
        }
        ("torch._utils", "_rebuild_qtensor") => unread("a quantized tensor", 2),
        ("torch._utils", "_rebuild_sparse_tensor" | "_rebuild_sparse_csr_tensor") => {
            unread("a sparse tensor", usize::MAX)
        }
        ("torch._utils", "_rebuild_meta_tensor_no_storage") => {
            unread("a meta tensor, which has no values", 1)
        }
        ("torch._utils", "_rebuild_nested_tensor") => unread("a nested tensor", usize::MAX),
        ("torch._utils", other) if other.starts_with("_rebuild_") => {
            unread("a tensor of a kind that is not known", usize::MAX)
        }
        ("numpy.core.multiarray" | "numpy._core.multiarray", "_reconstruct") => {
            unread("a NumPy array", usize::MAX)
        }
        _ => Ok(object(module, name)),
    }
}

fn object(module: &Rc<str>, name: &Rc<str>) -> Value {
    Value::Object(module.clone(), name.clone())
}

/// Bytes that a value takes which a call has made.
pub(super) fn cost(made: &Value) -> usize {
    let axes = match made {
        Value::Tensor(view) => view.shape.len() + view.stride.len(),
        Value::Unread(_, shape) => shape.len(),
        Value::Dict(parts) => parts.borrow().items.len() * size_of::<Value>() / size_of::<usize>(),
        _ => 0,
    };
    size_of::<View>() + axes * size_of::<usize>()
}

/// Puts a list of keys with values, as Python 2 gives them to an ordered dictionary, into one.
fn fill(dict: &Value, pairs: Option<&Value>) -> Result<(), Fail> {
    let (Value::Dict(dict), Some(Value::List(pairs))) = (dict, pairs) else { return Ok(()) };
    for pair in pairs.borrow().iter() {
        let items = match pair {
            Value::Tuple(parts) => parts.items.clone(),
            Value::List(parts) => parts.borrow().items.clone(),
            _ => return Err("an ordered dictionary of what is no pair".into()),
        };
        if items.len() != 2 {
            return Err("an ordered dictionary of what is no pair".into());
        }
        extend(dict, items)?;
    }
    Ok(())
}

/// A strided view of a storage. The third version has its type as an argument and counts in it.
fn view(arguments: &[Value], typed: bool) -> Result<Value, Fail> {
    if matches!(arguments.first(), Some(Value::Object(..) | Value::Opaque)) {
        return Ok(Value::Unread("a tensor whose storage is not in the file", [].into()));
    }
    let wrong = "a tensor without storage, offset, shape or strides of up to 64 axes";
    let parts = || {
        let [storage, offset, shape, stride, ..] = arguments else { return None };
        let Value::Storage(storage) = storage else { return None };
        let (shape, stride) = (shape.sizes()?, stride.sizes()?);
        (shape.len() == stride.len()).then_some((storage, offset.size()?, shape, stride))
    };
    let (storage, offset, shape, stride) = parts().ok_or(wrong)?;
    let mut dtype = storage.dtype;
    if typed {
        let Some(Value::Global(_, name)) = arguments.get(6) else {
            return Err("a tensor without its type".into());
        };
        dtype = named(name);
    }
    // Flags of a lazily conjugated or negated view: `{'conj': True}`, `{'neg': True}`.
    let flags = arguments.get(if typed { 7 } else { 6 });
    if let Some(Value::Dict(flags)) = flags {
        let set = |flag: &str| {
            let flags = flags.borrow();
            flags
                .pairs()
                .any(|(k, v)| k.text() == Some(flag) && matches!(v, Value::Int(n) if *n != 0))
        };
        for (flag, kind) in [("neg", "a view with the negative bit"), ("conj", "a conjugated view")]
        {
            if set(flag) {
                dtype = DType::Unread(kind);
            }
        }
    }
    Ok(match dtype {
        DType::Unread(kind) => Value::Unread(kind, shape.into()),
        _ => {
            Value::Tensor(Rc::new(View { storage: storage.clone(), dtype, offset, shape, stride }))
        }
    })
}

/// PyTorch's names of types.
fn named(name: &str) -> DType {
    match name {
        "float64" | "double" => DType::F64,
        "float32" | "float" => DType::F32,
        "float16" | "half" => DType::F16,
        "bfloat16" => DType::BF16,
        "int64" | "long" => DType::I64,
        "int32" | "int" => DType::I32,
        "int16" | "short" => DType::I16,
        "int8" => DType::I8,
        "uint8" => DType::U8,
        "bool" => DType::Bool,
        "uint16" => DType::Unread("uint16"),
        "uint32" => DType::Unread("uint32"),
        "uint64" => DType::Unread("uint64"),
        "complex32" => DType::Unread("complex32"),
        "complex64" => DType::Unread("complex64"),
        "complex128" => DType::Unread("complex128"),
        "float8_e4m3fn" => DType::Unread("float8_e4m3fn"),
        "float8_e5m2" => DType::Unread("float8_e5m2"),
        "float8_e4m3fnuz" => DType::Unread("float8_e4m3fnuz"),
        "float8_e5m2fnuz" => DType::Unread("float8_e5m2fnuz"),
        "float8_e8m0fnu" => DType::Unread("float8_e8m0fnu"),
        "float4_e2m1fn_x2" => DType::Unread("float4_e2m1fn_x2"),
        _ => DType::Unread("a type that is not known"),
    }
}

/// What a persistent id of old files names that is no storage: `('module', class, file, source)`.
pub(super) fn module_of(id: &Value) -> Option<Value> {
    let Value::Tuple(id) = id else { return None };
    let [kind, class, ..] = &id.items[..] else { return None };
    (kind.text() == Some("module")).then(|| class.clone())
}

/// The storage that a persistent id `('storage', type, key, location, elements, part)` names.
pub(super) fn storage(id: &Value) -> Result<Storage, Fail> {
    let parts = || {
        let Value::Tuple(id) = id else { return None };
        let [_, Value::Global(_, kind), key, _, elements, rest @ ..] = &id.items[..] else {
            return None;
        };
        let (dtype, size) = stored(kind);
        let Value::Str(key) = key else { return None };
        let part = match rest.first() {
            Some(Value::Tuple(part)) => {
                let [_, first, count] = &part.items[..] else { return None };
                Some((first.size()?, count.size()?))
            }
            _ => None,
        };
        Some(Storage { dtype, size, key: key.clone(), elements: elements.size()?, part })
    };
    parts().ok_or_else(|| "a storage without type, name or number of elements".into())
}

/// The type of a class of storages, and the bytes of an element; 0 if the class is not known.
fn stored(class: &str) -> (DType, usize) {
    let unread = |name: &'static str, size: usize| (DType::Unread(name), size);
    let dtype = match class {
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
        "ComplexFloatStorage" => return unread("complex64", 8),
        "ComplexDoubleStorage" => return unread("complex128", 16),
        "QInt8Storage" => return unread("qint8", 1),
        "QUInt8Storage" => return unread("quint8", 1),
        "QInt32Storage" => return unread("qint32", 4),
        "QUInt4x2Storage" => return unread("quint4x2", 1),
        "QUInt2x4Storage" => return unread("quint2x4", 1),
        _ => return unread("a type that is not known", 0),
    };
    (dtype, dtype.size())
}
