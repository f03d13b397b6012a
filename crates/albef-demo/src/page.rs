//! The report as one page: what works first, then what was missed, then the figures.

use albef::Pipeline;
use albef::task::PretrainConfig;
use albef_report::{Report, SearchExample, Series, Table, curve_panels};
use anyhow::Result;

use crate::options::Options;
use crate::task::Task;

/// The training of this start of the program.
pub(crate) struct Session {
    pub seconds: f64,
    /// Steps that were done before it.
    pub done: u64,
}

pub(crate) fn report(
    a: &Options,
    task: Task,
    model: &Pipeline,
    config: &PretrainConfig,
    session: &Session,
    images: usize,
    table: Table,
    searches: Vec<SearchExample>,
) -> Result<String> {
    let mut curves: Vec<Series> = ["train_loss_ita", "train_loss_itm", "train_loss_mlm"]
        .map(|n| Series { name: n.into(), points: Vec::new() })
        .to_vec();
    for line in std::fs::read_to_string(a.output.join("run/log.jsonl"))?.lines() {
        let value: serde_json::Value = serde_json::from_str(line)?;
        for curve in &mut curves {
            if let (Some(x), Some(y)) = (value["step"].as_f64(), value[&curve.name].as_f64()) {
                curve.points.push((x, y));
            }
        }
    }
    let (batch, steps) = (config.train.optim.batch_size, config.train.optim.max_steps);
    let seen = ((steps - session.done) * batch as u64) as f64;
    let since = match session.done {
        0 => String::new(),
        done => format!(", from step {done} on"),
    };
    let right = searches.iter().filter(|s| s.results.first().is_some_and(|r| r.correct)).count();
    let found = searches.iter().filter(|s| s.wanted.is_none()).count();
    let total = searches.len();
    // What works first; within that, the order in which they were drawn.
    let mut searches = searches;
    searches.sort_by_key(|s| s.results.iter().position(|r| r.correct).unwrap_or(usize::MAX));
    let fact = |name: &str, value: String| (name.to_owned(), value);
    let report = Report {
        title: "What ALBEF learned from scratch".into(),
        subtitle: format!(
            "Aligned by contrast, fused by cross-attention, on emoji art of {} things in three styles. Of {total} \
             searches drawn at random, {right} find the right image first and {found} among the first five.",
            task.concepts
        ),
        facts: vec![
            fact("Training images", images.to_string()),
            fact("Steps", format!("{steps} of {batch} pairs")),
            fact("Training time", format!("{:.1} minutes{since}", session.seconds / 60.0)),
            fact("Pairs a second", format!("{:.0}", seen / session.seconds)),
            fact("Parameters", format!("{:.1} M", model.parameters() as f64 / 1e6)),
            fact("Word pieces", model.config().text.vocab_size.to_string()),
            fact("Seed", config.train.data.seed.to_string()),
            fact("To repeat", format!("--concepts {} --steps {steps} --seed {}", task.concepts, a.seed)),
        ],
        curves: curve_panels(&curves),
        tables: vec![table],
        searches,
        notes: vec![
            format!(
                "To search these images yourself: albef serve {out}/data/val_scenes --model {out}/run/model, then open \
                 http://127.0.0.1:8080.",
                out = a.output.display()
            ),
            "“pixels” is the share of images whose nearest training image, compared pixel by \
             pixel, shows the same thing: what looking alike alone achieves. For scenes it is not \
             defined, since no training image shows the same pair."
                .into(),
            "Contrast (train_loss_ita) is trained alone at first; matching (train_loss_itm) and masked words \
             (train_loss_mlm) join later, and their curves begin there. Matching that always guesses the \
             same loses 0.637."
                .into(),
            "How many things are shown depends on how many steps fit into the time: 160 from 4,000 steps on, 80 \
             from 1,500, 40 from 400, else 20. Two idle cores with a unit for bf16 make more than 2,000 steps in six \
             minutes; matching is seldom better than chance before 1,000. The model that comes with albef was \
             trained on far more images, among them three of the styles and held-out renderings; the unseen style is \
             new to both."
                .into(),
            "The searches were drawn at random, not chosen, and are shown in the order of their success; the number is \
             the probability among sixteen candidates. Art: Twemoji (CC BY 4.0), Noto Emoji \
             (Apache 2.0), Fluent Emoji (MIT), FxEmoji (Apache 2.0)."
                .into(),
        ],
    };
    Ok(report.to_html())
}
