# Something to apply that needs no provider and no cloud: a resource whose provisioner takes a
# while, so that a second run has something to wait for.

variable "seconds" {
  description = "How long the apply takes."
  type        = number
  default     = 10
}

resource "terraform_data" "work" {
  triggers_replace = timestamp()

  provisioner "local-exec" {
    command = "echo begins; sleep ${var.seconds}; echo ends"
  }
}
