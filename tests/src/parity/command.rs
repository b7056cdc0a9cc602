//! The agent's command line, from files to printed answers.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{self, Stdio};
use std::thread;

use anyhow::{Context as _, Result, ensure};
use egress_oracle::Answer;
use egress_parity::Evaluator;
use egress_parity::generate::Question;
use serde_json::{Value, json};

/// `egress-agent check --manifests DIR --batch -`.
#[derive(Clone, Debug)]
pub struct Command {
    /// The binary.
    pub binary: PathBuf,
}

impl Evaluator for Command {
    fn answers(
        &self,
        objects: &[Value],
        questions: &[Question],
    ) -> Result<Vec<Result<Answer, String>>> {
        let folder = tempfile::tempdir()?;
        write(folder.path(), objects)?;
        let mut child = process::Command::new(&self.binary)
            .args(["check", "--batch", "-", "--manifests"])
            .arg(folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("starting {}", self.binary.display()))?;
        let mut stdin = child.stdin.take().context("no standard input")?;
        let mut lines = String::new();
        for question in questions {
            let line = json!({"from": question.sender(), "to": question.destination()});
            writeln!(lines, "{line}")?;
        }
        // From a thread: the agent answers while it reads, and a full pipe would stop both.
        let writer = thread::spawn(move || stdin.write_all(lines.as_bytes()));
        let output = child.wait_with_output()?;
        let written = writer.join();
        ensure!(
            matches!(output.status.code(), Some(0 | 2)),
            "{} ended with {}",
            self.binary.display(),
            output.status
        );
        ensure!(matches!(written, Ok(Ok(()))), "the questions were not read");
        String::from_utf8(output.stdout)?
            .lines()
            .map(answer)
            .collect()
    }
}

/// The objects in three files: a list as JSON, one document in a folder below, the others as
/// documents of a YAML file, of which JSON is a part.
fn write(folder: &Path, objects: &[Value]) -> Result<()> {
    let (list, rest) = objects.split_at(objects.len() / 2);
    let list = json!({"apiVersion": "v1", "kind": "List", "items": list});
    fs::write(folder.join("list.json"), list.to_string())?;
    let Some((one, rest)) = rest.split_first() else {
        return Ok(());
    };
    fs::create_dir(folder.join("below"))?;
    fs::write(folder.join("below/one.json"), one.to_string())?;
    let mut documents = String::new();
    for object in rest {
        writeln!(
            documents,
            "---
{object}"
        )?;
    }
    fs::write(folder.join("rest.yaml"), documents)?;
    Ok(())
}

/// One line of the agent's.
fn answer(line: &str) -> Result<Result<Answer, String>> {
    let answer: Value = serde_json::from_str(line).with_context(|| line.to_owned())?;
    if let Some(error) = answer.get("error").and_then(Value::as_str) {
        return Ok(Err(error.to_owned()));
    }
    let names = |field: &str| {
        answer
            .get(field)
            .and_then(Value::as_array)
            .with_context(|| format!("no {field}: {line}"))?
            .iter()
            .map(|name| Ok(name.as_str().context("no text")?.to_owned()))
            .collect::<Result<Vec<String>>>()
    };
    Ok(Ok(Answer {
        allow: match answer.get("verdict").and_then(Value::as_str) {
            Some("allow") => true,
            Some("deny") => false,
            _ => anyhow::bail!("no verdict: {line}"),
        },
        isolated_by: names("isolatedBy")?,
        allowed_by: names("allowedBy")?,
    }))
}
