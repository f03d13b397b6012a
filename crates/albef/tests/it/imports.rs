//! Files of a crate import each other in one direction.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// A module by the names on the way to it.
type Module = Vec<String>;

/// What may be imported from below: the registry of tasks and what a task is to it. The registry names the tasks, which
/// use the library, which asks the registry what a checkpoint is of.
const REGISTRY: [&str; 2] = ["task", "task::configured"];

/// The modules of a crate with their code, without comments and tests.
fn modules(source: &Path) -> BTreeMap<Module, String> {
    let mut found = BTreeMap::new();
    let mut folders = vec![source.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            if path.extension().is_none_or(|e| e != "rs") {
                continue;
            }
            let mut module: Module = path
                .strip_prefix(source)
                .unwrap()
                .with_extension("")
                .iter()
                .map(|part| part.to_str().unwrap().to_owned())
                .collect();
            if ["mod", "lib", "main"].contains(&module.last().unwrap().as_str()) {
                module.pop();
            }
            let text = std::fs::read_to_string(&path).unwrap();
            let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
            let lines = code.lines().map(|line| line.split("//").next().unwrap());
            found.insert(module, lines.collect::<Vec<_>>().join("\n"));
        }
    }
    found
}

/// The paths of a tree of imports such as `a::{b, c::{d, e}}`.
fn paths(tree: &str) -> Vec<String> {
    let Some((before, rest)) = tree.split_once('{') else {
        return vec![tree.split(" as ").next().unwrap().trim().to_owned()];
    };
    // A line of a text may begin like an import.
    let Some((inside, _)) = rest.rsplit_once('}') else { return Vec::new() };
    let (mut depth, mut start, mut found) = (0, 0, Vec::new());
    let ends = inside.char_indices().chain([(inside.len(), ',')]);
    for (i, c) in ends {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                let part = inside[start..i].trim();
                if !part.is_empty() {
                    found.extend(paths(&format!("{}{part}", before.trim())));
                }
                start = i + 1;
            }
            _ => {}
        }
    }
    found
}

/// A path as it is seen from the top of the crate; `None` if it leads out of it.
fn absolute(path: &str, module: &Module, modules: &BTreeMap<Module, String>) -> Option<Module> {
    let mut parts: Vec<String> = path.split("::").map(|part| part.trim().to_owned()).collect();
    let mut base = module.clone();
    match parts[0].as_str() {
        "crate" => base.clear(),
        "self" => {}
        "super" => {
            while parts.first().is_some_and(|part| part == "super") {
                base.pop();
                parts.remove(0);
            }
            base.append(&mut parts);
            return Some(base);
        }
        first => {
            base.push(first.to_owned());
            if !modules.contains_key(&base) {
                return None;
            }
            base.pop();
            base.append(&mut parts);
            return Some(base);
        }
    }
    base.extend(parts.drain(1..));
    Some(base)
}

/// What every module imports, and under which names modules pass on what others define.
struct Imports {
    used: BTreeMap<Module, Vec<Module>>,
    passed_on: BTreeMap<Module, Module>,
}

fn imports(modules: &BTreeMap<Module, String>) -> Imports {
    let mut all = Imports { used: BTreeMap::new(), passed_on: BTreeMap::new() };
    for (module, code) in modules {
        for statement in code.split(';') {
            let Some((before, tree)) = statement.rsplit_once("use ") else { continue };
            let visibility = before.rsplit('\n').next().unwrap().trim();
            if !["", "pub", "pub(crate)", "pub(super)"].contains(&visibility) {
                continue;
            }
            let public = !visibility.is_empty();
            for path in paths(&tree.replace('\n', " ")) {
                let Some(target) = absolute(&path, module, modules) else { continue };
                if public {
                    let name = [module.clone(), vec![target.last().unwrap().clone()]].concat();
                    all.passed_on.insert(name, target);
                } else {
                    all.used.entry(module.clone()).or_default().push(target);
                }
            }
        }
    }
    all
}

/// The module that defines what a path names.
fn home(path: &Module, modules: &BTreeMap<Module, String>, imports: &Imports) -> Module {
    let mut path = path.clone();
    // Passed on a few times at most.
    for _ in 0..5 {
        let Some(next) = (1..=path.len()).find_map(|n| imports.passed_on.get(&path[..n])) else {
            break;
        };
        path.clone_from(next);
    }
    while !modules.contains_key(&path) && path.pop().is_some() {}
    path
}

/// A module that imports itself by way of others, and its way.
fn circle(edges: &BTreeMap<Module, BTreeSet<Module>>) -> Option<Vec<Module>> {
    fn visit(
        at: &Module,
        edges: &BTreeMap<Module, BTreeSet<Module>>,
        way: &mut Vec<Module>,
        done: &mut BTreeSet<Module>,
    ) -> Option<Vec<Module>> {
        if let Some(start) = way.iter().position(|m| m == at) {
            return Some(way[start..].to_vec());
        }
        if !done.insert(at.clone()) {
            return None;
        }
        way.push(at.clone());
        let found =
            edges.get(at).into_iter().flatten().find_map(|next| visit(next, edges, way, done));
        way.pop();
        found
    }
    let mut done = BTreeSet::new();
    edges.keys().find_map(|start| visit(start, edges, &mut Vec::new(), &mut done))
}

#[test]
fn files_of_a_crate_import_each_other_in_one_direction() {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut counted = 0;
    for entry in std::fs::read_dir(&crates).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let modules = modules(&crates.join(&name).join("src"));
        let imports = imports(&modules);
        let mut edges = BTreeMap::<Module, BTreeSet<Module>>::new();
        for (module, paths) in &imports.used {
            let homes = paths.iter().map(|path| home(path, &modules, &imports));
            // What a folder's files share is in the file that has them as its parts.
            let others = homes.filter(|home| !module.starts_with(home));
            edges.entry(module.clone()).or_default().extend(
                others.filter(|home| {
                    name != "albef" || !REGISTRY.contains(&home.join("::").as_str())
                }),
            );
        }
        counted += edges.values().map(BTreeSet::len).sum::<usize>();
        let found = circle(&edges).map(|way| way.iter().map(|m| m.join("::")).collect::<Vec<_>>());
        assert_eq!(found, None, "{name}: these files import each other in a circle");
    }
    assert!(counted > 800, "only {counted} imports were found");
}

#[test]
fn a_circle_is_found() {
    let module = |name: &str| vec![name.to_owned()];
    let code = [("a", "use crate::b::X;"), ("b", "use super::c::{Y, Z};"), ("c", "use crate::W;")];
    let mut modules: BTreeMap<Module, String> =
        code.iter().map(|(name, text)| (module(name), (*text).to_owned())).collect();
    modules.insert(Vec::new(), "pub use a::W;".to_owned());
    let imports = imports(&modules);
    let edges = imports.used.iter().map(|(from, paths)| {
        (from.clone(), paths.iter().map(|path| home(path, &modules, &imports)).collect())
    });
    assert_eq!(circle(&edges.collect()), Some(vec![module("a"), module("b"), module("c")]));
}
