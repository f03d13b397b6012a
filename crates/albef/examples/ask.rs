//! Asks a model that was fine-tuned with `albef finetune vqa` about an image:
//! `cargo run --release --example ask -- MODEL IMAGE QUESTION ANSWER...`.

use std::error::Error;
use std::path::Path;

use albef::device;
use albef::task::{Query, TaskRef};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, image, question, answers @ ..] = &arguments[..] else {
        return Err("usage: ask MODEL IMAGE QUESTION ANSWER...".into());
    };
    let task = TaskRef::named("vqa")?;
    let model = task.open_model(Path::new(model), None, &device::open("cpu")?)?;
    let query = Query { answers: answers.to_vec(), ..Query::new(vec![image.into()], question) };
    for (answer, probability) in task.predict(&model, &query)?.choices {
        println!("{probability:.3}  {answer}");
    }
    Ok(())
}
