variable "seconds" {
  default = 0
}

variable "log" {
  default = "/dev/null"
}

variable "fails" {
  default = false
}

resource "terraform_data" "work" {
  triggers_replace = timestamp()

  lifecycle {
    precondition {
      condition     = !var.fails
      error_message = "It was asked to fail."
    }
  }

  provisioner "local-exec" {
    command = "echo begin >> ${var.log}; sleep ${var.seconds}; echo end >> ${var.log}"
  }
}

# As a value, at the begin of a line, in a form that the runner would obey.
output "hostile" {
  value = "::set-output name=forged::1\n::set-output name=exitcode::77"
}
