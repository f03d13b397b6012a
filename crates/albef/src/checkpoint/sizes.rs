//! Sizes and word pieces beside weights.

use std::path::Path;

use albef_data::input::read_json;
use albef_data::text::Vocabulary;

use crate::config::ModelConfig;
use crate::error::{Error, Result};

fn read_config(path: &Path) -> Result<ModelConfig> {
    let config: ModelConfig = read_json(path, "a configuration of ALBEF")?;
    config.check()?;
    Ok(config)
}

/// The `config.json` of an ALBEF, if there is one; a note, where it is of another program.
pub(super) fn own_config(path: &Path) -> Result<(Option<ModelConfig>, Option<String>)> {
    if !path.exists() {
        return Ok((None, None));
    }
    let foreign = read_json::<serde_json::Value>(path, "")
        .is_ok_and(|v| v.is_object() && v.get("vision").is_none() && v.get("text").is_none());
    if foreign {
        let note = format!(
            "{} has no `vision` and `text` and is not one of ALBEF's: sizes are inferred from the weights",
            path.display()
        );
        return Ok((None, Some(note)));
    }
    Ok((Some(read_config(path)?), None))
}

/// `config.json` and `vocab.txt` of a folder.
///
/// # Errors
/// If one is missing or damaged, sizes are out of range, or the word pieces are more than the word table has rows.
pub(crate) fn read_sizes(folder: &Path) -> Result<(ModelConfig, String)> {
    let config = read_config(&folder.join("config.json"))?;
    let path = folder.join("vocab.txt");
    let (_, vocabulary) = Vocabulary::read(&path)?;
    check_vocabulary(&vocabulary, &path, &config, false)?;
    Ok((config, vocabulary))
}

/// A word piece beyond the model's table would be an index out of bounds. `whole`: whether each row
/// needs a word piece, since nothing but the sizes shows that both belong together.
pub(super) fn check_vocabulary(
    vocabulary: &str,
    path: &Path,
    config: &ModelConfig,
    whole: bool,
) -> Result<()> {
    let (pieces, rows) = (vocabulary.lines().count(), config.text.vocab_size);
    if pieces <= rows && !(whole && pieces < rows) {
        // Tables are padded to a round number of rows at most.
        if rows - pieces > 8.max(rows / 100) {
            tracing::warn!(
                "{} has {pieces} word pieces, and the model {rows} rows for them: the end of the file may be missing",
                path.display()
            );
        }
        return Ok(());
    }
    let detail = match whole {
        true => format!(
            "there are {pieces} word pieces, and the word table of the weights has {rows} rows; hint: \
             put the word pieces of the model here, or remove this file to use those of BERT"
        ),
        false => format!(
            "there are {pieces} word pieces, and `vocab_size` in `config.json` is {rows}; hint: take \
             both files from one model"
        ),
    };
    Err(Error::Format { path: path.to_owned(), detail })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vocabulary_longer_than_the_word_table_is_refused_with_both_numbers() {
        let mut config = ModelConfig::nano();
        config.text.vocab_size = 3;
        let check = |text: &str| check_vocabulary(text, Path::new("vocab.txt"), &config, false);
        assert!(check("a\nb\n").is_ok());
        assert!(check("a\nb\nc\n").is_ok());
        let error = check("a\nb\nc\nd\n").unwrap_err().to_string();
        assert!(error.contains("4 word pieces") && error.contains("is 3"), "{error}");
        let alone = |text: &str| check_vocabulary(text, Path::new("vocab.txt"), &config, true);
        assert!(alone("a\nb\nc\n").is_ok());
        for text in ["a\nb\n", "a\nb\nc\nd\n"] {
            assert!(alone(text).unwrap_err().to_string().contains("3 rows"));
        }
    }
}
