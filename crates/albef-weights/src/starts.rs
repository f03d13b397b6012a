//! Starting weights from other models (paper section 3.5).

use crate::tensor::StateDict;
use crate::tied::{untied, with_originals};

/// Names of a BERT (with or without `bert.`, with `gamma`/`beta` or `weight`/`bias`) as those of
/// ALBEF's `text_encoder`; pooler and next-sentence head are left out, and so are the head's own names of
/// tensors that ALBEF ties. [`read`](crate::read) notes where these differ.
#[must_use]
pub fn from_bert(state: StateDict) -> StateDict {
    let mut state: StateDict = state
        .into_iter()
        .map(|(name, tensor)| {
            let name = with_modern_norms(&name);
            let name = match name.strip_prefix("bert.") {
                Some(body) => format!("text_encoder.bert.{body}"),
                None if name.starts_with("cls.") => format!("text_encoder.{name}"),
                None => format!("text_encoder.bert.{name}"),
            };
            (name, tensor)
        })
        .collect();
    with_originals(&mut state);
    state
        .into_iter()
        .filter(|(n, _)| !n.contains("pooler.") && !n.contains("seq_relationship"))
        .filter(|(n, _)| !n.ends_with("position_ids") && !n.ends_with("predictions.decoder.weight"))
        .filter(|(n, _)| !n.ends_with("predictions.decoder.bias"))
        .collect()
}

/// What a start from a BERT leaves out because ALBEF ties it, where it has values of its own.
pub(crate) fn untied_note(state: &StateDict) -> Option<String> {
    let untied = untied(state, "");
    let (head, table) = untied.first()?;
    Some(format!(
        "`{head}` is not the tensor `{table}`, as it is in ALBEF: a start from this BERT takes \
         `{table}` for both"
    ))
}

/// Layer norms of old files, whose parameters are called `gamma` and `beta`.
#[must_use]
pub fn with_modern_norms(name: &str) -> String {
    let name = name.replace("LayerNorm.gamma", "LayerNorm.weight");
    name.replace("LayerNorm.beta", "LayerNorm.bias")
}

/// Names of a DeiT as those of ALBEF's `visual_encoder`; the classifier is left out.
#[must_use]
pub fn from_deit(state: StateDict) -> StateDict {
    state
        .into_iter()
        .filter(|(n, _)| !n.starts_with("head."))
        .map(|(n, t)| (format!("visual_encoder.{n}"), t))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::HostTensor;

    #[test]
    fn the_word_table_of_a_bert_is_its_own_and_not_the_matrix_of_its_head() {
        let of = |name: &str, v: f32| (name.to_owned(), HostTensor::from_f32(&[1], &[v]));
        let head = of("cls.predictions.decoder.weight", 2.0);
        let table = "text_encoder.bert.embeddings.word_embeddings.weight";
        for level in ["", "bert."] {
            let words = of(&format!("{level}embeddings.word_embeddings.weight"), 1.0);
            let found = from_bert([words, head.clone()].into_iter().collect());
            assert_eq!(found, StateDict::from_iter([of(table, 1.0)]));
        }
        assert_eq!(from_bert([head].into_iter().collect()), StateDict::from_iter([of(table, 2.0)]));
    }
}
