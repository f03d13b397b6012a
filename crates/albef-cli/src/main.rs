//! The `albef` program: parses, calls the library, prints. Data goes to standard output, everything
//! else to standard error; it exits with 0 when done, 1 for a negative answer, 2 for an error.

#![warn(clippy::print_stdout, reason = "`output::say` makes a full disk an error")]

mod analyse;
mod arguments;
mod bench;
mod calibrate;
mod classify;
mod compare;
mod completions;
mod convert;
mod data;
mod demo;
mod device;
mod diagnostics;
mod doctor;
mod embed;
mod evaluate;
mod evaluate_vqa_results;
mod ground;
mod help;
mod image_options;
mod index;
mod index_place;
mod inspect;
mod models;
mod output;
mod predict;
mod progress;
mod pull;
mod reproduce;
mod search;
mod search_filters;
mod search_page;
mod serve;
mod train;
mod warnings;

use std::process::ExitCode;

use clap::{FromArgMatches, Parser, Subcommand};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Place of the options of all commands in the help of one: behind its own.
const LAST: usize = 900;

/// ALBEF: align images and text before fusing them.
#[derive(Parser)]
#[command(name = "albef", version, propagate_version = true)]
struct Arguments {
    /// Number of compute threads [default: all cores].
    #[arg(long, global = true, display_order = LAST, value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// Print more diagnostics; repeat for still more. `RUST_LOG` sets levels by module.
    #[arg(long, short, global = true, display_order = LAST + 1, action = clap::ArgAction::Count)]
    verbose: u8,
    /// Print no notes; twice, no warnings either.
    #[arg(long, short, global = true, display_order = LAST + 2, conflicts_with = "verbose")]
    #[arg(action = clap::ArgAction::Count)]
    quiet: u8,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Pre-train on real emoji art for a few minutes, evaluate, and write a report.
    Demo(demo::Arguments),
    /// Pre-train by a configuration file.
    Pretrain(train::PretrainArguments),
    /// Fine-tune a pre-trained model for a task by a configuration file.
    Finetune(train::FinetuneArguments),
    /// Make data sets, and check them.
    #[command(subcommand)]
    Data(data::Command),
    /// Answer a question about an image.
    Ask(predict::AskArguments),
    /// Decide whether an image entails or contradicts a sentence.
    Entail(predict::EntailArguments),
    /// Decide whether a statement about two images is true.
    Reason(predict::ReasonArguments),
    /// Ask a model of any task, by what its checkpoint says it is for.
    Predict(predict::PredictArguments),
    /// Choose among classes without training for them.
    Classify(classify::Arguments),
    /// Show where in an image the model finds a phrase.
    Ground(ground::Arguments),
    /// Measure a model.
    #[command(subcommand)]
    Evaluate(evaluate::Command),
    /// Measure when nothing matches and which map finds a phrase, for the defaults of a model.
    Calibrate(calibrate::Arguments),
    /// Run a row of the paper's tables and compare the figures with the published ones.
    Reproduce(reproduce::Arguments),
    /// Look into what a model has learnt.
    #[command(subcommand)]
    Analyse(analyse::Command),
    /// Compare two models on the same items, with interval and test.
    Compare(compare::Arguments),
    /// Find the images that fit a text.
    Search(search::SearchArguments),
    /// Index the images of folders, keep the index current, find duplicates.
    Index(index::Arguments),
    /// Write the features of images and texts, for other programs.
    Embed(embed::Arguments),
    /// Answer over HTTP: search with a page, embeddings, questions, heat maps.
    Serve(serve::Arguments),
    /// Score how well a text fits an image.
    Match(search::MatchArguments),
    /// Describe a checkpoint, or write it as a model folder.
    Inspect(inspect::Arguments),
    /// Write a checkpoint for this program, the official code or LAVIS.
    ///
    /// All formats hold the same tensors and open again as the same model. `official` and `lavis` are files of
    /// `torch.save` with every key that the classes there list: tied weights under both names, position
    /// numbers, momentum copies. For LAVIS the first row of the token types is added to the positions.
    Convert(convert::Arguments),
    /// Fetch a published checkpoint into the cache.
    ///
    /// Prints its path; `--model` takes the same name. Files are kept where Hugging Face's libraries
    /// (`HF_HUB_CACHE`, `HF_HOME`) and `torch.hub` (`TORCH_HOME`) keep theirs. The same command resumes an
    /// interrupted download. `HF_ENDPOINT`, `HF_TOKEN`, `HF_HUB_OFFLINE`, `HTTPS_PROXY` and `NO_PROXY` are
    /// respected.
    Pull(pull::Arguments),
    /// Show what the machine offers, test the program, replay golden fixtures.
    Doctor(doctor::Arguments),
    /// Time parts of the model.
    Bench(bench::Arguments),
    /// Print completions for a shell.
    Completions(completions::CompletionsArguments),
    /// Write man pages for all commands to a folder.
    Man(completions::ManArguments),
}

/// How a command ended, errors aside.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ExitStatus {
    /// Done; 0.
    Yes,
    /// A negative answer; 1.
    No,
}

unsafe extern "C" {
    fn mi_option_set(option: std::ffi::c_int, value: std::ffi::c_long);
}

/// A training step asks for the same buffers again and again: freed pages are not handed back.
fn keep_freed_pages() {
    const PURGE_DELAY: std::ffi::c_int = 15;
    // SAFETY: the function belongs to the allocator linked above and only stores a number.
    unsafe { mi_option_set(PURGE_DELAY, -1) };
}

/// A reader of the output that has seen enough (`albef … | head`) ends the program without a word, as it
/// does everywhere.
#[cfg(unix)]
fn end_when_the_reader_goes() {
    unsafe extern "C" {
        fn signal(signal: std::ffi::c_int, handler: usize) -> usize;
    }
    const SIGPIPE: std::ffi::c_int = 13;
    const DEFAULT: usize = 0;
    // SAFETY: this sets a disposition before there are other threads.
    unsafe { signal(SIGPIPE, DEFAULT) };
}

#[cfg(not(unix))]
fn end_when_the_reader_goes() {}

fn main() -> ExitCode {
    keep_freed_pages();
    end_when_the_reader_goes();
    let arguments = match help::command::<Arguments>().try_get_matches() {
        Ok(found) => Arguments::from_arg_matches(&found),
        Err(error) => Err(error),
    };
    let arguments = match arguments {
        Ok(arguments) => arguments,
        // What clap itself does, but a help that cannot be written is an error.
        Err(error) => {
            return match error.print() {
                Ok(()) => ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2)),
                Err(_) => ExitCode::from(2),
            };
        }
    };
    let level = |count: u8| i8::try_from(count).unwrap_or(i8::MAX);
    diagnostics::install(level(arguments.verbose) - level(arguments.quiet));
    let mut pool = rayon::ThreadPoolBuilder::new();
    if let Some(threads) = arguments.threads {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        // Beyond that, threads only wait for each other.
        let most = 64.max(4 * cores);
        if usize::from(threads) > most {
            tracing::info!("{threads} threads for {cores} cores: {most} are used");
        }
        pool = pool.num_threads(most.min(threads.into()));
    }
    if let Err(error) = pool.build_global() {
        eprintln!("error: {error}");
        return ExitCode::from(2);
    }
    if let Err(error) = arguments::refuse_own_input(&std::env::args_os().collect::<Vec<_>>()) {
        eprintln!("error: {}", albef_data::names::harmless(&error));
        return ExitCode::from(2);
    }
    let result = match arguments.command {
        Command::Demo(a) => demo::run(&a),
        Command::Pretrain(a) => train::pretrain(&a),
        Command::Finetune(a) => train::finetune(&a),
        Command::Data(a) => data::run(&a),
        Command::Ask(a) => predict::ask(&a),
        Command::Entail(a) => predict::entail(&a),
        Command::Reason(a) => predict::reason(&a),
        Command::Predict(a) => predict::predict(&a),
        Command::Classify(a) => classify::run(&a),
        Command::Ground(a) => ground::run(&a),
        Command::Evaluate(a) => evaluate::run(&a),
        Command::Calibrate(a) => calibrate::run(&a),
        Command::Reproduce(a) => reproduce::run(&a),
        Command::Analyse(a) => analyse::run(&a),
        Command::Compare(a) => compare::run(&a),
        Command::Search(a) => search::search(&a),
        Command::Index(a) => index::run(&a),
        Command::Serve(a) => serve::run(&a),
        Command::Embed(a) => embed::run(&a),
        Command::Match(a) => search::match_pair(&a),
        Command::Inspect(a) => inspect::run(&a),
        Command::Convert(a) => convert::run(&a),
        Command::Pull(a) => pull::run(&a),
        Command::Doctor(a) => doctor::run(&a),
        Command::Bench(a) => bench::run(&a),
        Command::Completions(a) => completions::completions(&a, help::command::<Arguments>()),
        Command::Man(a) => completions::man(&a, help::command::<Arguments>()),
    };
    match result {
        Ok(ExitStatus::Yes) => ExitCode::SUCCESS,
        Ok(ExitStatus::No) => ExitCode::from(1),
        Err(error) => {
            eprintln!("error: {}", albef_data::names::harmless(&format!("{error:#}")));
            ExitCode::from(2)
        }
    }
}
