
    # Behind `--` there are Terraform's commands only, and behind `run` there is a command line of its own.
    $typed = @($commandElements | Where-Object { $_.Extent.EndOffset -lt $cursorPosition })
    $words = @($typed | ForEach-Object { $_.Extent.Text })
    for ($at = 1; $at -lt $words.Count; $at++) {
        $word = $words[$at]
        if (@(OPTIONS) -ccontains $word) {
            $at++
        } elseif ($word -ceq 'run') {
            $at++
            if ($at -lt $words.Count -and $words[$at] -ceq '--') {
                $at++
            } elseif ($at -ge $words.Count -and $wordToComplete.StartsWith('-')) {
                break
            }
            if ($at -ge $words.Count) {
                return [CompletionCompleters]::CompleteCommand($wordToComplete)
            }
            $line = $commandAst.Extent.StartScriptPosition.GetFullScript()
            $from = $typed[$at].Extent.StartOffset
            $line = $line.Substring($from, $cursorPosition - $from)
            return [CommandCompletion]::CompleteInput($line, $line.Length, $null).CompletionMatches
        } elseif ($word -ceq '--') {
            if ($at + 1 -lt $words.Count) {
                $commandElements = @($commandElements[0]) + @($commandElements | Select-Object -Skip ($at + 1))
                break
            }
            return @(
COMMANDS
            ).Where{ $_.CompletionText -like "$wordToComplete*" }
        } elseif (-not $word.StartsWith('-')) {
            break
        }
    }
