# The lock table. Apply it once, from a directory of its own with a state of its own: a table
# cannot keep the lock of the run that makes it.

terraform {
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 5.0"
    }
  }
}

provider "aws" {
  region = "eu-west-1"
}

resource "aws_dynamodb_table" "locks" {
  name         = "terraform-locks"
  billing_mode = "PAY_PER_REQUEST"
  hash_key     = "LockID"

  # Terraform and tfwrap look for this key, with just this name and type.
  attribute {
    name = "LockID"
    type = "S"
  }

  # The table also keeps a checksum of every state: losing it is a nuisance.
  deletion_protection_enabled = true

  point_in_time_recovery {
    enabled = true
  }
}

# What a role that runs Terraform under tfwrap may do with the table: no more than Terraform's own
# S3 backend needs.
data "aws_iam_policy_document" "locking" {
  statement {
    actions = [
      "dynamodb:GetItem",
      "dynamodb:PutItem",
      "dynamodb:DeleteItem",
    ]
    resources = [aws_dynamodb_table.locks.arn]
  }
}

output "policy" {
  description = "The least policy for the lock table."
  value       = data.aws_iam_policy_document.locking.json
}
