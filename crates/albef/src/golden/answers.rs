//! Question answering: decoder, training step, ranking, soft accuracy.

use albef_data::dataset::Answers;
use albef_data::text::{Tokenizer, Vocabulary};
use burn::tensor::activation;
use serde_json::Value;

use super::encoders::{padded_batch, prefix_lengths, widened};
use super::step::{Run, batch, compare_checksums, compare_gradients, packed};
use super::{Comparison, GoldenSet, Outcome};
use crate::error::Result;
use crate::eval::answers::{Candidates, RankRule, rank};
use crate::eval::vqa_score::{
    ScoreRule, accuracy_share, clean, digits_and_articles, punctuation, totals,
};
use crate::model::{Branch, DropoutRng, Memory, OutputRows, TextTrace, TokenBatch, VqaModel};
use crate::objectives::VqaObjective;
use crate::objectives::distill::DistillAxis;
use crate::objectives::labels::gather_labels;
use crate::objectives::rng::Replay;
use crate::objectives::vqa::VqaTrace;
use crate::ops::{Ops, index};
use crate::params::{from_vec, to_vec};

const HOLES: &str = "a mask with holes, where only visible prefixes are known";

pub(super) fn decoder(set: &GoldenSet, fixture: &Value) -> Result<Outcome> {
    let mut c = Comparison::new(fixture)?;
    let (config, weights) = set.task_model(fixture)?;
    let weights = weights.online.frozen(Ops::for_device(set.device()));
    let t = set.tensors(fixture, "inputs.safetensors")?;
    let expected = set.tensors(fixture, "expected.safetensors")?;
    let model = VqaModel::new(&config, &weights, Branch::Online)?;
    let [batch, length, hidden] = t.axes("encoder_states")?;
    let (Some(tokens), Some(visible)) = (
        padded_batch(&t, "input_ids", "attention_mask")?,
        prefix_lengths(&t.indices("encoder_mask", batch * length, 2)?, length),
    ) else {
        c.fail(HOLES.into());
        return Ok(c.finish());
    };
    let states = from_vec(t.floats("encoder_states")?, [batch * length, hidden], set.device());
    let ranges = visible.iter().enumerate().map(|(b, v)| b * length..b * length + v).collect();
    let memory = [Memory { states, ranges }];
    let layer = fixture["params"]["attention_layer"].as_u64().map(|l| l as usize);
    let mut trace = TextTrace { attention_layer: layer, ..TextTrace::default() };
    let none = &mut DropoutRng::none();
    let out =
        model.text_decoder.all_layers(&tokens, &memory, OutputRows::All, none, Some(&mut trace))?;
    let logits = model.head.forward(out);
    let [rows, width] = t.axes("input_ids")?;
    let labels = t.integers("labels")?;
    let words = config.text.vocab_size as i64;
    if rows != batch || labels.len() != batch * width || labels.iter().any(|l| *l >= words) {
        let detail = format!("`labels` must hold word pieces below {words} for {batch} texts");
        return Err(set.wrong(fixture, &detail));
    }
    let log_p = activation::log_softmax(logits.clone(), 1);
    let mut loss = vec![0.0_f32; batch];
    for (b, sum) in loss.iter_mut().enumerate() {
        let wanted: Vec<usize> =
            (0..width - 1).filter(|i| labels[b * width + i + 1] >= 0).collect();
        let rows: Vec<usize> = wanted.iter().map(|i| b * width + i).collect();
        let words: Vec<usize> = wanted.iter().map(|i| labels[b * width + i + 1] as usize).collect();
        if !rows.is_empty() {
            let rows = log_p.clone().select(0, index(&rows, set.device()));
            *sum = -to_vec(gather_labels(rows, &words)).iter().sum::<f32>();
        }
    }
    for name in expected.names() {
        let got = match name.split_once('.') {
            Some(("hidden", i)) => {
                i.parse::<usize>().ok().and_then(|i| trace.hidden.get(i)).cloned().map(to_vec)
            }
            Some(("attention", _)) => trace.attention.clone().map(|p| widened(p, width)),
            Some(("cross_attention", _)) => {
                trace.cross_attention.clone().map(|p| widened(p, length))
            }
            _ if name == "logits" => Some(to_vec(logits.clone())),
            _ if name == "loss" => Some(loss.clone()),
            _ => None,
        };
        match got {
            Some(got) => c.tensor(&name, &got, &expected.floats(&name)?),
            None => c.fail(format!("`{name}` is not computed here")),
        }
    }
    Ok(c.finish())
}

pub(super) fn training(set: &GoldenSet, fixture: &Value) -> Result<Outcome> {
    let mut c = Comparison::new(fixture)?;
    let t = set.tensors(fixture, "inputs.safetensors")?;
    let (Some(questions), Some(answers)) = (
        padded_batch(&t, "question_ids", "question_mask")?,
        padded_batch(&t, "answer_ids", "answer_mask")?,
    ) else {
        c.fail(HOLES.into());
        return Ok(c.finish());
    };
    step(set, fixture, [questions.clone(), answers.clone()], true, &mut c)?;
    step(set, fixture, [packed(&questions), packed(&answers)], false, &mut c)?;
    Ok(c.finish())
}

fn step(
    set: &GoldenSet,
    fixture: &Value,
    [questions, answers]: [TokenBatch; 2],
    with_padding: bool,
    c: &mut Comparison,
) -> Result<()> {
    let mut run = Run::of_task(set, fixture, |distill| {
        let (axis, dropout, momentum_dropout) = (DistillAxis::Vocabulary, 0.0, 0.0);
        Box::new(VqaObjective { distill, axis, dropout, momentum_dropout })
    })?;
    let t = set.tensors(fixture, "inputs.safetensors")?;
    let expected = set.tensors(fixture, "expected.safetensors")?;
    let counts = fixture["params"]["answers_per_question"].as_array();
    let total = answers.len();
    let question_of: Vec<usize> = counts
        .into_iter()
        .flatten()
        .enumerate()
        .flat_map(|(q, n)| vec![q; (n.as_u64().unwrap_or(0) as usize).min(total + 1)])
        .collect();
    if question_of.len() != total || question_of.last().is_some_and(|q| *q >= questions.len()) {
        let found = question_of.len();
        let detail = format!("`answers_per_question` is about {found} answers, given are {total}");
        return Err(set.wrong(fixture, &detail));
    }
    let weights = t.floats_of("weights", total)?;
    let mut batch = batch(&t, "image", questions, &run.settings.model)?;
    batch.answers = Answers { tokens: answers, question_of, weights };
    let (_, seen) = run.step(vec![(batch, Replay::default())])?;
    let trace: &VqaTrace = seen.trace()?;
    let mut answer_loss = vec![0.0; total];
    for (answer, loss) in trace.answer_of.iter().zip(to_vec(trace.token_loss.clone())) {
        answer_loss[*answer] += loss;
    }
    for name in expected.names() {
        let padded_only = matches!(name.as_str(), "logits" | "logits_m" | "question_states");
        if name == "grad_norms" || (padded_only && !with_padding) {
            continue;
        }
        let got = match (name.as_str(), &trace.logits_m) {
            ("loss", _) => seen.loss("loss"),
            ("answer_loss", _) => Some(answer_loss.clone()),
            ("question_states", _) => Some(to_vec(trace.question_states.clone())),
            ("logits", _) => Some(to_vec(trace.logits.clone())),
            ("logits_m", Some(logits)) => {
                // Without the last position of each answer.
                let [_, width] = t.axes("answer_ids")?;
                let rows: Vec<usize> =
                    (0..total * width).filter(|i| i % width + 1 < width).collect();
                Some(to_vec(logits.clone().select(0, index(&rows, set.device()))))
            }
            _ => None,
        };
        match got {
            Some(got) => c.tensor(&name, &got, &expected.floats(&name)?),
            None => c.fail(format!("`{name}` is not computed here")),
        }
    }
    compare_gradients(set, fixture, &seen.gradients, c)?;
    compare_checksums(set, fixture, &run.state.momentum, c)
}

pub(super) fn ranking(set: &GoldenSet, fixture: &Value) -> Result<Outcome> {
    let mut c = Comparison::new(fixture)?;
    let (config, weights) = set.task_model(fixture)?;
    let weights = weights.online.frozen(Ops::for_device(set.device()));
    let t = set.tensors(fixture, "inputs.safetensors")?;
    let expected = set.tensors(fixture, "expected.safetensors")?;
    let listed = set.json(fixture, "answers.json")?;
    let (Some(questions), Some(answers)) = (
        padded_batch(&t, "question_ids", "question_mask")?,
        padded_batch(&t, "answer_ids", "answer_mask")?,
    ) else {
        c.fail(HOLES.into());
        return Ok(c.finish());
    };
    let questions = packed(&questions);
    let answers = packed(&answers);
    let rows = |batch: &TokenBatch| -> Vec<Vec<u32>> {
        batch.sequences.iter().map(|s| batch.ids[s.range()].to_vec()).collect()
    };
    let tokens = rows(&answers);
    compare_texts(set, &listed, [("questions", &rows(&questions)), ("answers", &tokens)], &mut c)?;
    let model = VqaModel::new(&config, &weights, Branch::Online)?;
    let images = model.visual_encoder.forward(t.on::<4>("image", set.device())?)?;
    let own: Vec<usize> = (0..questions.len()).collect();
    let k = fixture["params"]["k"].as_u64().unwrap_or(1) as usize;
    let candidates = Candidates::new(tokens)?;
    let found = rank(&model, &images, &own, &questions, &candidates, k, RankRule::Reference)?;

    let flat = |f: fn(&crate::eval::answers::Ranking) -> Vec<f32>| {
        found.iter().flat_map(f).collect::<Vec<f32>>()
    };
    c.tensor(
        "prob_first_token",
        &flat(|r| r.first_token.clone()),
        &expected.floats("prob_first_token")?,
    );
    c.tensor("topk_probs", &flat(|r| r.probabilities.clone()), &expected.floats("topk_probs")?);
    let ids: Vec<i64> = found.iter().flat_map(|r| r.candidates.iter().map(|i| *i as i64)).collect();
    c.integers("topk_ids", &ids, &expected.integers("topk_ids")?);
    // Among candidates that share their first token any order of the first choice is right.
    let sorted = |mut rows: Vec<f32>| {
        rows.chunks_mut(k.max(1)).for_each(|r| r.sort_by(f32::total_cmp));
        rows
    };
    let scores = flat(|r| r.scores.clone());
    c.tensor(
        "candidate_log_prob",
        &sorted(scores),
        &sorted(expected.floats("candidate_log_prob")?),
    );
    let predicted = listed["predicted"].as_array().map_or(&[][..], Vec::as_slice);
    if predicted.len() != found.len() {
        c.fail(format!("{} `predicted` answers to {} questions", predicted.len(), found.len()));
    }
    for (i, (want, ranking)) in predicted.iter().zip(&found).enumerate() {
        let best = ranking.candidates.first().copied().unwrap_or(usize::MAX);
        if &listed["answers"][best] != want {
            c.fail(format!("question {i}: {} instead of {want}", listed["answers"][best]));
        }
    }
    Ok(c.finish())
}

/// Compares the word pieces of the listed texts, an answer followed by `eos`, with those of the tensors.
fn compare_texts(
    set: &GoldenSet,
    listed: &Value,
    texts: [(&str, &Vec<Vec<u32>>); 2],
    c: &mut Comparison,
) -> Result<()> {
    let tokenizer = Tokenizer::new(Vocabulary::from_file(&set.vocabulary())?);
    for (key, want) in texts {
        let end = if key == "answers" { listed["eos"].as_str().unwrap_or_default() } else { "" };
        let given = listed[key].as_array().into_iter().flatten().filter_map(Value::as_str);
        let wide = |ids: &[u32]| ids.iter().map(|id| i64::from(*id)).collect::<Vec<_>>();
        let got: Vec<Vec<i64>> =
            given.map(|text| wide(&tokenizer.encode(&format!("{text}{end}")))).collect();
        if got.len() != want.len() {
            c.fail(format!("{} `{key}` for {} rows of word pieces", got.len(), want.len()));
        }
        for (i, (got, want)) in got.iter().zip(want).enumerate() {
            c.integers(&format!("{key}[{i}]"), got, &wide(want));
        }
    }
    Ok(())
}

pub(super) fn score(set: &GoldenSet, fixture: &Value) -> Result<Outcome> {
    let mut c = Comparison::new(fixture)?;
    let json = set.json(fixture, "cases.json")?;
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    for key in ["processing", "cases"] {
        if json[key].as_array().is_none_or(Vec::is_empty) {
            c.fail(format!("there are no `{key}`"));
        }
    }
    for case in json["processing"].as_array().into_iter().flatten() {
        let input = clean(&text(&case["text"]));
        let marks = punctuation(&input);
        let all = digits_and_articles(&marks);
        for (step, got) in [("punctuation", &marks), ("digit_article", &all)] {
            let same = i64::from(*got == text(&case[step]));
            c.integers("processing", &[same], &[1]);
            if same == 0 {
                c.fail(format!("{step} of {input:?}: {got:?} instead of {}", case[step]));
            }
        }
    }
    let mut scored = Vec::new();
    for case in json["cases"].as_array().into_iter().flatten() {
        let truth: Vec<String> =
            case["ground_truth"].as_array().into_iter().flatten().map(text).collect();
        let answer = text(&case["answer"]);
        let official = accuracy_share(&answer, &truth, ScoreRule::Official);
        let challenge = accuracy_share(&answer, &truth, ScoreRule::Challenge);
        let want = |key: &str| case[key].as_f64().unwrap_or(f64::NAN);
        c.numbers("accuracy", &[100.0 * official], &[want("accuracy")]);
        c.numbers("accuracy_v2", &[100.0 * challenge], &[want("accuracy_v2")]);
        let types = (text(&case["question_type"]), text(&case["answer_type"]));
        let alone = totals(std::iter::once((official, &*types.0, &*types.1)));
        c.numbers("overall of one", &[alone.overall], &[want("overall")]);
        scored.push((official, challenge, types));
    }
    let official = totals(scored.iter().map(|(a, _, t)| (*a, &t.0[..], &t.1[..])));
    let challenge = totals(scored.iter().map(|(_, a, t)| (*a, &t.0[..], &t.1[..])));
    let number = |v: &Value| v.as_f64().unwrap_or(f64::NAN);
    c.numbers("overall", &[official.overall], &[number(&json["totals"]["overall"])]);
    c.numbers("overall_v2", &[challenge.overall], &[number(&json["overall_v2"])]);
    for (key, got) in [
        ("perQuestionType", &official.per_question_type),
        ("perAnswerType", &official.per_answer_type),
    ] {
        for (kind, got) in got {
            c.numbers(&format!("{key}.{kind}"), &[*got], &[number(&json["totals"][key][kind])]);
        }
    }
    Ok(c.finish())
}
