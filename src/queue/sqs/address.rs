//! What the URL of a queue tells: where SQS is, its region, the queue's name.

use http::Uri;

/// The URL of a queue, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Address {
    /// As it is sent with each request.
    pub url: String,
    /// `scheme://host[:port]`: where requests go unless another endpoint is set.
    /// A queue's URL names the host that serves it: the public one, a VPC
    /// endpoint or a stand-in.
    pub origin: String,
    /// The region, where the host names it.
    pub region: Option<String>,
}

impl Address {
    /// Reads a URL. `None` if it is none of a queue.
    pub fn parse(url: &str) -> Option<Self> {
        let uri: Uri = url.parse().ok()?;
        let scheme = uri
            .scheme_str()
            .filter(|s| matches!(*s, "http" | "https"))?;
        let authority = uri.authority()?;
        if authority.as_str().contains('@') || name(url).is_empty() {
            return None;
        }
        Some(Self {
            url: url.to_owned(),
            origin: format!("{scheme}://{authority}"),
            region: region(authority.host()),
        })
    }

    /// Whether the queue is first in, first out.
    pub fn is_fifo(&self) -> bool {
        is_fifo(&self.url)
    }
}

/// Whether a queue is first in, first out: SQS fixes that by its name.
pub(super) fn is_fifo(url: &str) -> bool {
    name(url).ends_with(".fifo")
}

fn name(url: &str) -> &str {
    let path = url.split_once("://").map_or("", |(_, rest)| rest);
    path.split_once('/')
        .map_or("", |(_, path)| path.rsplit('/').next().unwrap_or_default())
}

/// The region in the host of a queue's URL: `sqs.<region>.amazonaws.com`, its
/// FIPS, dual-stack, China and VPC endpoint forms, and the older
/// `<region>.queue.amazonaws.com`.
fn region(host: &str) -> Option<String> {
    let labels: Vec<&str> = host.split('.').collect();
    let service = |label: &str| matches!(label, "sqs" | "sqs-fips");
    let is_aws = host.ends_with(".amazonaws.com")
        || host.ends_with(".amazonaws.com.cn")
        || host.ends_with(".api.aws")
        || host.ends_with(".api.amazonwebservices.com.cn");
    if !is_aws {
        return None;
    }
    if host == "queue.amazonaws.com" {
        return Some("us-east-1".to_owned());
    }
    if let [region, "queue", "amazonaws", ..] = labels[..] {
        return Some(region.to_owned());
    }
    let at = labels.iter().position(|label| service(label))?;
    labels.get(at + 1).map(|region| (*region).to_owned())
}

/// A queue in its ARN, `arn:<partition>:sqs:<region>:<account>:<name>`.
#[derive(Debug)]
pub(super) struct QueueArn {
    pub account: String,
    pub name: String,
}

impl QueueArn {
    pub fn parse(arn: &str) -> Option<Self> {
        let parts: Vec<&str> = arn.split(':').collect();
        match parts[..] {
            ["arn", _, "sqs", _, account, name] if !name.is_empty() => Some(Self {
                account: account.to_owned(),
                name: name.to_owned(),
            }),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_region_is_read_from_every_form_of_the_host() {
        for (url, region) in [
            (
                "https://sqs.eu-west-1.amazonaws.com/111122223333/jobs",
                Some("eu-west-1"),
            ),
            (
                "https://sqs-fips.us-gov-west-1.amazonaws.com/1/jobs",
                Some("us-gov-west-1"),
            ),
            (
                "https://sqs.cn-north-1.amazonaws.com.cn/1/jobs",
                Some("cn-north-1"),
            ),
            ("https://sqs.eu-west-1.api.aws/1/jobs", Some("eu-west-1")),
            (
                "https://vpce-0a-b1.sqs.eu-west-1.vpce.amazonaws.com/1/jobs",
                Some("eu-west-1"),
            ),
            (
                "https://eu-west-3.queue.amazonaws.com/1/jobs",
                Some("eu-west-3"),
            ),
            ("https://queue.amazonaws.com/1/jobs", Some("us-east-1")),
            ("http://127.0.0.1:9324/000000000000/jobs", None),
            ("http://sqs.eu-west-1.localhost.example:4566/1/jobs", None),
        ] {
            let address = Address::parse(url).unwrap();
            assert_eq!(address.region.as_deref(), region, "{url}");
            assert!(!address.is_fifo());
        }
    }

    #[test]
    fn a_url_is_taken_apart_or_refused() {
        let address = Address::parse("http://127.0.0.1:9324/000000000000/jobs.fifo").unwrap();
        assert_eq!(address.origin, "http://127.0.0.1:9324");
        assert!(address.is_fifo());
        for bad in [
            "jobs",
            "ftp://sqs.eu-west-1.amazonaws.com/1/jobs",
            "https://sqs.eu-west-1.amazonaws.com",
            "https://sqs.eu-west-1.amazonaws.com/1/",
            "https://user:pass@sqs.eu-west-1.amazonaws.com/1/jobs",
            "arn:aws:sqs:eu-west-1:111122223333:jobs",
        ] {
            assert_eq!(Address::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn an_arn_names_account_and_queue() {
        let arn = QueueArn::parse("arn:aws:sqs:eu-west-1:111122223333:jobs-dead").unwrap();
        assert_eq!((&*arn.account, &*arn.name), ("111122223333", "jobs-dead"));
        assert!(QueueArn::parse("arn:aws:sns:eu-west-1:1:topic").is_none());
        assert!(QueueArn::parse("jobs").is_none());
    }
}
