//! Soft accuracy of answers by the rule of the VQA benchmark: agreement with ten annotators.

use std::collections::BTreeMap;

use albef_data::text::is_decimal_digit;

/// The marks that are taken out of an answer, in this order.
const MARKS: [char; 21] = [
    ';', '/', '[', ']', '"', '{', '}', '(', ')', '=', '+', '\\', '_', '-', '>', '<', '@', '`', ',',
    '?', '!',
];

const NUMBERS: [(&str, &str); 12] = [
    ("none", "0"),
    ("zero", "0"),
    ("one", "1"),
    ("two", "2"),
    ("three", "3"),
    ("four", "4"),
    ("five", "5"),
    ("six", "6"),
    ("seven", "7"),
    ("eight", "8"),
    ("nine", "9"),
    ("ten", "10"),
];

const CONTRACTIONS: &[(&str, &str)] = &[
    ("aint", "ain't"),
    ("arent", "aren't"),
    ("cant", "can't"),
    ("couldve", "could've"),
    ("couldnt", "couldn't"),
    ("couldn'tve", "couldn't've"),
    ("couldnt've", "couldn't've"),
    ("didnt", "didn't"),
    ("doesnt", "doesn't"),
    ("dont", "don't"),
    ("hadnt", "hadn't"),
    ("hadnt've", "hadn't've"),
    ("hadn'tve", "hadn't've"),
    ("hasnt", "hasn't"),
    ("havent", "haven't"),
    ("hed", "he'd"),
    ("hed've", "he'd've"),
    ("he'dve", "he'd've"),
    ("hes", "he's"),
    ("howd", "how'd"),
    ("howll", "how'll"),
    ("hows", "how's"),
    ("Id've", "I'd've"),
    ("I'dve", "I'd've"),
    ("Im", "I'm"),
    ("Ive", "I've"),
    ("isnt", "isn't"),
    ("itd", "it'd"),
    ("itd've", "it'd've"),
    ("it'dve", "it'd've"),
    ("itll", "it'll"),
    ("let's", "let's"),
    ("maam", "ma'am"),
    ("mightnt", "mightn't"),
    ("mightnt've", "mightn't've"),
    ("mightn'tve", "mightn't've"),
    ("mightve", "might've"),
    ("mustnt", "mustn't"),
    ("mustve", "must've"),
    ("neednt", "needn't"),
    ("notve", "not've"),
    ("oclock", "o'clock"),
    ("oughtnt", "oughtn't"),
    ("ow's'at", "'ow's'at"),
    ("'ows'at", "'ow's'at"),
    ("'ow'sat", "'ow's'at"),
    ("shant", "shan't"),
    ("shed've", "she'd've"),
    ("she'dve", "she'd've"),
    ("she's", "she's"),
    ("shouldve", "should've"),
    ("shouldnt", "shouldn't"),
    ("shouldnt've", "shouldn't've"),
    ("shouldn'tve", "shouldn't've"),
    ("somebody'd", "somebodyd"),
    ("somebodyd've", "somebody'd've"),
    ("somebody'dve", "somebody'd've"),
    ("somebodyll", "somebody'll"),
    ("somebodys", "somebody's"),
    ("someoned", "someone'd"),
    ("someoned've", "someone'd've"),
    ("someone'dve", "someone'd've"),
    ("someonell", "someone'll"),
    ("someones", "someone's"),
    ("somethingd", "something'd"),
    ("somethingd've", "something'd've"),
    ("something'dve", "something'd've"),
    ("somethingll", "something'll"),
    ("thats", "that's"),
    ("thered", "there'd"),
    ("thered've", "there'd've"),
    ("there'dve", "there'd've"),
    ("therere", "there're"),
    ("theres", "there's"),
    ("theyd", "they'd"),
    ("theyd've", "they'd've"),
    ("they'dve", "they'd've"),
    ("theyll", "they'll"),
    ("theyre", "they're"),
    ("theyve", "they've"),
    ("twas", "'twas"),
    ("wasnt", "wasn't"),
    ("wed've", "we'd've"),
    ("we'dve", "we'd've"),
    ("weve", "we've"),
    ("werent", "weren't"),
    ("whatll", "what'll"),
    ("whatre", "what're"),
    ("whats", "what's"),
    ("whatve", "what've"),
    ("whens", "when's"),
    ("whered", "where'd"),
    ("wheres", "where's"),
    ("whereve", "where've"),
    ("whod", "who'd"),
    ("whod've", "who'd've"),
    ("who'dve", "who'd've"),
    ("wholl", "who'll"),
    ("whos", "who's"),
    ("whove", "who've"),
    ("whyll", "why'll"),
    ("whyre", "why're"),
    ("whys", "why's"),
    ("wont", "won't"),
    ("wouldve", "would've"),
    ("wouldnt", "wouldn't"),
    ("wouldnt've", "wouldn't've"),
    ("wouldn'tve", "wouldn't've"),
    ("yall", "y'all"),
    ("yall'll", "y'all'll"),
    ("y'allll", "y'all'll"),
    ("yall'd've", "y'all'd've"),
    ("y'alld've", "y'all'd've"),
    ("y'all'dve", "y'all'd've"),
    ("youd", "you'd"),
    ("youd've", "you'd've"),
    ("you'dve", "you'd've"),
    ("youll", "you'll"),
    ("youre", "you're"),
    ("youve", "you've"),
];

/// The rules by which answers are made comparable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ScoreRule {
    /// Those of the tool that comes with the method: of the annotators' answers only punctuation
    /// is processed.
    #[default]
    Official,
    /// Those of the challenge: both sides alike, and only where the annotators disagree.
    Challenge,
}

/// Line breaks and tabs become spaces, the ends are trimmed.
#[must_use]
pub fn clean(answer: &str) -> String {
    answer.replace(['\n', '\t'], " ").trim().to_owned()
}

/// Takes out punctuation: a mark that stands beside a space anywhere goes, others become spaces;
/// full stops go unless a digit follows, the first 32 of them.
#[must_use]
pub fn punctuation(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let digit_comma =
        chars.windows(3).any(|w| is_decimal_digit(w[0]) && w[1] == ',' && is_decimal_digit(w[2]));
    let mut out = text.to_owned();
    for mark in MARKS {
        let beside = [format!("{mark} "), format!(" {mark}")].iter().any(|s| text.contains(s));
        let replacement = if beside || digit_comma { "" } else { " " };
        out = out.replace(mark, replacement);
    }
    let chars: Vec<char> = out.chars().collect();
    let mut taken = 0;
    let mut kept = String::with_capacity(out.len());
    for (i, c) in chars.iter().enumerate() {
        let before_digit = chars.get(i + 1).is_some_and(|n| is_decimal_digit(*n));
        if *c == '.' && !before_digit && taken < 32 {
            taken += 1;
        } else {
            kept.push(*c);
        }
    }
    kept
}

/// Lower case, number words as digits, no articles, contractions with their apostrophes.
#[must_use]
pub fn digits_and_articles(text: &str) -> String {
    let lower = text.to_lowercase();
    let words = lower.split_whitespace().map(|word| {
        NUMBERS.iter().find(|(name, _)| *name == word).map_or(word, |(_, digit)| digit)
    });
    let words = words.filter(|w| !["a", "an", "the"].contains(w));
    let words =
        words.map(|w| CONTRACTIONS.iter().find(|(from, _)| *from == w).map_or(w, |(_, to)| to));
    words.collect::<Vec<_>>().join(" ")
}

/// Accuracy in per cent of one answer against those of the annotators, not rounded.
#[must_use]
pub fn accuracy(answer: &str, annotators: &[String], rule: ScoreRule) -> f64 {
    100.0 * accuracy_share(answer, annotators, rule)
}

/// [`accuracy`] as a share.
#[must_use]
pub fn accuracy_share(answer: &str, annotators: &[String], rule: ScoreRule) -> f64 {
    let disagree = annotators.iter().any(|a| a != &annotators[0]);
    let mut answer = clean(answer);
    let mut truth: Vec<String> = match rule {
        ScoreRule::Official => annotators.to_vec(),
        ScoreRule::Challenge => annotators.iter().map(|a| clean(a)).collect(),
    };
    let full = |text: &str| digits_and_articles(&punctuation(text));
    match rule {
        ScoreRule::Official => {
            answer = full(&answer);
            if disagree {
                truth.iter_mut().for_each(|t| *t = punctuation(t));
            }
        }
        ScoreRule::Challenge if disagree => {
            answer = full(&answer);
            truth.iter_mut().for_each(|t| *t = full(t));
        }
        ScoreRule::Challenge => {}
    }
    let matches = truth.iter().filter(|t| **t == answer).count();
    let per_annotator = truth.iter().map(|t| {
        let others = matches - usize::from(*t == answer);
        (others as f64 / 3.0).min(1.0)
    });
    per_annotator.sum::<f64>() / truth.len().max(1) as f64
}

/// Shares of answers as the answers of ten annotators.
#[must_use]
pub fn annotators(shares: &[(String, f32)]) -> Vec<String> {
    let whole: f32 = shares.iter().map(|(_, w)| w).sum();
    let times = |w: f32| (10.0 * w / whole.max(f32::MIN_POSITIVE)).round() as usize;
    shares.iter().flat_map(|(a, w)| vec![a.clone(); times(*w)]).collect()
}

/// Mean accuracies, over all questions and by type, in per cent with two decimals.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Totals {
    /// Over all questions.
    pub overall: f64,
    /// By type of question.
    pub per_question_type: BTreeMap<String, f64>,
    /// By type of answer.
    pub per_answer_type: BTreeMap<String, f64>,
}

/// Gathers accuracies of questions, as shares, with their question and answer types.
#[must_use]
pub fn totals<'a>(scored: impl Iterator<Item = (f64, &'a str, &'a str)>) -> Totals {
    let mut all = Vec::new();
    let mut by_question: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    let mut by_answer: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for (accuracy, question, answer) in scored {
        all.push(accuracy);
        by_question.entry(question.to_owned()).or_default().push(accuracy);
        by_answer.entry(answer.to_owned()).or_default().push(accuracy);
    }
    // As the official evaluation sums and rounds, so that means between two hundredths fall on the same side.
    let mean = |v: &[f64]| {
        let mean = 100.0 * v.iter().sum::<f64>() / v.len().max(1) as f64;
        format!("{mean:.2}").parse().unwrap_or(mean)
    };
    let each =
        |m: BTreeMap<String, Vec<f64>>| m.iter().map(|(k, v)| (k.clone(), mean(v))).collect();
    Totals {
        overall: mean(&all),
        per_question_type: each(by_question),
        per_answer_type: each(by_answer),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_between_two_hundredths_are_rounded_as_by_the_official_evaluation() {
        let shares = [0.3, 0.6].into_iter().chain(std::iter::repeat_n(0.0, 78));
        let found = totals(shares.map(|share| (share, "what", "other")));
        // Python's round(100 * float(sum(shares)) / 80, 2); the mean is 1.125.
        assert_eq!(found.overall, 1.12);
        assert_eq!(found.per_answer_type["other"], 1.12);
    }
}
