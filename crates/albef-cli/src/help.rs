//! What the help has beyond the options: commands by purpose, examples, and exit codes.

use clap::{Command, CommandFactory};

/// The commands by what one wants to do. A command that is in no group is a failed test.
const GROUPS: [(&str, &[&str]); 4] = [
    (
        "Use a model",
        &[
            "search", "index", "match", "classify", "ask", "entail", "reason", "predict", "ground",
            "embed", "serve",
        ],
    ),
    ("Train", &["demo", "pretrain", "finetune", "data"]),
    ("Measure", &["evaluate", "calibrate", "compare", "analyse", "reproduce"]),
    (
        "Checkpoints and this machine",
        &["inspect", "convert", "pull", "doctor", "bench", "completions", "man"],
    ),
];

const EXIT_CODES: &str =
    "Exit codes: 0 done, 1 a negative answer or an interrupted run, 2 an error.";

/// Examples of a command, one a line.
const EXAMPLES: [(&str, &[&str]); 18] = [
    (
        "search",
        &[
            "albef search \"a red car\" photos",
            "albef search \"a dog\" photos --top-k 3 --json",
            "albef search \"a beach\" photos --minus people --after 2024 --path '*.jpg'",
            "albef search \"a red car\" photos --open",
            "albef search --like photo.jpg photos --paths -0 | xargs -0 ls",
        ],
    ),
    (
        "index",
        &[
            "albef index photos",
            "albef index photos --watch",
            "albef index status",
            "albef index dups --bits 4",
        ],
    ),
    (
        "serve",
        &[
            "albef serve photos",
            "albef serve photos --model mini=models/mini --model vqa=runs/vqa --answers yes,no",
            "albef serve photos --bind 0.0.0.0:8080 --keys keys.txt",
        ],
    ),
    (
        "match",
        &[
            "albef match photo.jpg \"a dog on a beach\"",
            "albef match photos @1 \"a dog on a beach\"",
        ],
    ),
    (
        "classify",
        &[
            "albef classify photo.jpg \"a black dog\" \"a cat\" \"a horse\"",
            "albef classify photos dog cat horse --json",
        ],
    ),
    (
        "ask",
        &["albef ask photo.jpg \"what color is the car?\" --answers red,blue,green --model vqa"],
    ),
    ("entail", &["albef entail photo.jpg \"two people are talking\" --model ve"]),
    ("reason", &["albef reason left.jpg right.jpg \"both show a dog\" --model nlvr"]),
    (
        "ground",
        &[
            "albef ground photo.jpg \"the red car\" --output map.png",
            "albef ground @3 \"the red car\"",
        ],
    ),
    ("embed", &["albef embed photos --output features.npy"]),
    ("demo", &["albef demo --minutes 2"]),
    (
        "pretrain",
        &["albef pretrain configs/nano.yaml --output run --set 'train_file=[pairs.json]'"],
    ),
    (
        "finetune",
        &[
            "albef finetune classification configs/classification.yaml --output run --set 'train_file=[photos]'",
        ],
    ),
    (
        "calibrate",
        &[
            "albef calibrate --model run/best --annotations val.json --write",
            "albef calibrate --annotations val.json --grounding val_grounding.json --json",
        ],
    ),
    ("inspect", &["albef inspect ALBEF.pth", "albef inspect ALBEF.pth --export model"]),
    (
        "convert",
        &[
            "albef convert mscoco.pth --to safetensors --dtype bf16 --output coco",
            "albef convert run --to official --output albef.pth",
        ],
    ),
    (
        "pull",
        &[
            "albef pull --list",
            "albef pull albef-coco",
            "albef pull hub:OWNER/NAME@REVISION",
            "albef pull https://example.org/model.pth",
        ],
    ),
    ("doctor", &["albef doctor", "albef doctor --golden tests/golden"]),
];

/// Options that many commands have, by what they are about. Others stay under "Options".
const HEADINGS: [(&str, &[&str]); 4] = [
    (
        "Images and index",
        &[
            "image_root",
            "no_index",
            "index",
            "store",
            "like",
            "plus",
            "minus",
            "path",
            "after",
            "before",
            "larger_than",
            "camera",
        ],
    ),
    (
        "Model and machine",
        &["model", "image_res", "precision", "device", "threads", "verbose", "quiet"],
    ),
    (
        "How images are read",
        &[
            "exif_orientation",
            "no_exif_orientation",
            "background",
            "max_image_pixels",
            "resize_order",
            "truncated_images",
        ],
    ),
    (
        "Output",
        &[
            "json",
            "output",
            "page",
            "paths_only",
            "paths",
            "null",
            "html",
            "open",
            "explain",
            "preview",
        ],
    ),
];

/// The program's definition with its whole help.
pub fn command<A: CommandFactory>() -> Command {
    let mut command = with_headings(with_numbers(A::command()));
    let commands = grouped(&command);
    for (name, lines) in EXAMPLES {
        let title = if lines.len() == 1 { "Example:" } else { "Examples:" };
        let text = format!("{title}\n  {}\n\n{EXIT_CODES}", lines.join("\n  "));
        command = command.mut_subcommand(name, |own| own.after_help(text));
    }
    command
        .before_help(commands)
        .after_help(format!("`albef help COMMAND` explains a command.\n{EXIT_CODES}"))
        .help_template(
            "{about-with-newline}\n{usage-heading} {usage}\n\n{before-help}Options:\n{options}{after-help}",
        )
}

/// Numbers below 0 are values, for an option to refuse, and no options themselves.
fn with_numbers(command: Command) -> Command {
    let numbers = |arg: clap::Arg| {
        let option = arg.get_long().is_some();
        if option { arg.allow_negative_numbers(true) } else { arg }
    };
    command.mut_args(numbers).mut_subcommands(with_numbers)
}

/// Puts options below their headings.
fn with_headings(command: Command) -> Command {
    let heading = |arg: clap::Arg| {
        let id = arg.get_id().to_string();
        let found = HEADINGS.iter().find(|(_, ids)| ids.contains(&id.as_str()));
        match found {
            Some((title, _)) if !arg.is_positional() => arg.help_heading(*title),
            _ => arg,
        }
    };
    command.mut_args(heading).mut_subcommands(with_headings)
}

/// Each group with its commands and what they are for.
fn grouped(command: &Command) -> String {
    let about = |name: &&str| {
        let about = command.find_subcommand(name).and_then(Command::get_about);
        about.map_or_else(String::new, |about| format!("  {name:<13}{about}\n"))
    };
    let group = |(title, names): &(&str, &[&str])| {
        format!("{title}:\n{}", names.iter().map(about).collect::<String>())
    };
    GROUPS.iter().map(group).collect::<Vec<_>>().join("\n").trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_is_in_one_group_and_examples_are_of_commands() {
        let command = crate::Arguments::command();
        let mut known: Vec<&str> = command.get_subcommands().map(Command::get_name).collect();
        let mut listed: Vec<&str> = GROUPS.iter().flat_map(|(_, names)| *names).copied().collect();
        known.sort_unstable();
        listed.sort_unstable();
        assert_eq!(known, listed);
        for (name, lines) in EXAMPLES {
            assert!(known.contains(&name), "{name}");
            for line in lines {
                let words = line.split(' ').take(2).collect::<Vec<_>>();
                assert_eq!(words, ["albef", name]);
            }
        }
    }
}
