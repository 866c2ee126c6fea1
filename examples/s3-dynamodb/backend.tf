terraform {
  backend "s3" {
    # The bucket must exist. Turn its versioning on: old states are then never lost.
    bucket = "my-terraform-states"

    # One key for each thing that is applied on its own; the lock goes by bucket and key, so two
    # directories with the same key exclude each other, and with different keys they do not.
    key = "example/terraform.tfstate"

    region  = "eu-west-1"
    encrypt = true

    # The lock table, made in lock-table/. tfwrap needs nothing else: it takes the very lock that
    # `terraform` itself would take, so colleagues without tfwrap are kept out, too.
    dynamodb_table = "terraform-locks"
  }
}
