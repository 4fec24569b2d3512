//! `holm doctor`: what is wrong with this host, and what to do about it.

use holm_api::ClientError;
use holm_api::wire::{Finding, FindingLevel};
use serde::Serialize;

use super::Context;
use crate::exit::{Exit, Failure};
use crate::output::harmless;
use crate::up;

#[derive(Serialize)]
struct Report {
    running: bool,
    findings: Vec<Finding>,
}

pub(crate) async fn run(context: &Context<'_>) -> Result<(), Failure> {
    let report = match context.client.doctor().await {
        Ok(findings) => Report { running: true, findings },
        Err(ClientError::NotRunning { .. }) => {
            let mut findings = vec![Finding {
                subject: "holm".to_owned(),
                level: FindingLevel::Warn,
                text: format!("is not running on {}", context.client.state_folder().display()),
                hint: Some("start it with `holm up`".to_owned()),
            }];
            findings.extend(up::doctor(context.client.state_folder()).await);
            Report { running: false, findings }
        }
        Err(error) => return Err(error.into()),
    };
    context.out.show("doctor", &report, |report| render(&report.findings))?;
    let broken = report.findings.iter().any(|finding| finding.level == FindingLevel::Fail);
    if broken { Err(Failure::silent(Exit::Failed)) } else { Ok(()) }
}

fn render(findings: &[Finding]) -> String {
    let width = findings.iter().map(|finding| finding.subject.chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    for finding in findings {
        let level = match finding.level {
            FindingLevel::Ok => "ok",
            FindingLevel::Warn => "warn",
            FindingLevel::Fail => "fail",
        };
        text.push_str(&format!("{level:<4}  {:<width$}  {}\n", finding.subject, harmless(&finding.text)));
        if let Some(hint) = &finding.hint {
            text.push_str(&format!("{:6}{:width$}  hint: {hint}\n", "", ""));
        }
    }
    text
}
