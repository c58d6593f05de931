//! The least that a policy of AWS must allow, for each side. Pure.

use serde_json::{Value, json};

use super::options::{Options, Role};
use crate::model::Layout;

/// A policy document for one side. The account is left open where configuration does not say it.
pub fn policy(options: &Options) -> Value {
    let region = options.region.as_deref().unwrap_or("*");
    let partition = match region {
        region if region.starts_with("cn-") => "aws-cn",
        region if region.starts_with("us-gov-") => "aws-us-gov",
        _ => "aws",
    };
    let arn = |table: &str| format!("arn:{partition}:dynamodb:{region}:*:table/{table}");
    let allow = |name: &str, table: &str, actions: &[&str]| {
        let actions: Vec<_> = actions.iter().map(|action| format!("dynamodb:{action}")).collect();
        json!({"Sid": name, "Effect": "Allow", "Action": actions, "Resource": arn(table)})
    };
    let walk = if options.layout == Layout::Raw { "Scan" } else { "Query" };
    let read = ["DescribeTable", "DescribeTimeToLive", "BatchGetItem", walk];
    let statements = match options.role {
        Role::Source => vec![allow("DriftlessReads", &options.table, &read)],
        Role::Sink => {
            // A destination that is emptied by its source (TRUNCATE) is scanned for what is to go.
            let mut data = vec!["DescribeTable", "DescribeTimeToLive", "BatchGetItem", "Query", "Scan"];
            data.extend(["PutItem", "DeleteItem", "CreateTable", "UpdateTimeToLive"]);
            if options.recoverable {
                data.push("UpdateContinuousBackups");
            }
            let ours = [
                "DescribeTable",
                "CreateTable",
                "Query",
                "Scan",
                "GetItem",
                "PutItem",
                "UpdateItem",
                "DeleteItem",
                "ConditionCheckItem",
            ];
            vec![
                allow("DriftlessWrites", &options.table, &data),
                allow("DriftlessCheckpoints", &options.checkpoints, &ours),
            ]
        }
    };
    json!({"Version": "2012-10-17", "Statement": statements})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_only_read_and_nothing_is_allowed_on_every_table() {
        let options = Options { region: Some("cn-north-1".into()), ..Options::new("s", Role::Source, "teleport") };
        let text = policy(&options).to_string();
        assert!(text.contains("arn:aws-cn:dynamodb:cn-north-1:*:table/teleport\""), "{text}");
        for word in ["Put", "Delete", "Update", "Create", "Scan"] {
            assert!(!text.contains(word), "{word}: {text}");
        }
        let sink = policy(&Options::new("s", Role::Sink, "teleport")).to_string();
        assert!(sink.contains("table/teleport_driftless\"") && !sink.contains("table/*"), "{sink}");
        assert!(!sink.contains("UpdateTable\"") && !sink.contains("DeleteTable") && !sink.contains("UpdateContinuous"));
    }
}
