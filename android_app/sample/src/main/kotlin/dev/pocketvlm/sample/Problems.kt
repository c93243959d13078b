package dev.pocketvlm.sample

import android.content.Context
import android.text.format.Formatter
import dev.pocketvlm.PocketVlmException
import dev.pocketvlm.PocketVlmException.BundleDamaged
import dev.pocketvlm.PocketVlmException.BundleTooNew
import dev.pocketvlm.PocketVlmException.ChatInvalid
import dev.pocketvlm.PocketVlmException.Closed
import dev.pocketvlm.PocketVlmException.DownloadFailed
import dev.pocketvlm.PocketVlmException.EngineFailed
import dev.pocketvlm.PocketVlmException.ImageUnusable
import dev.pocketvlm.PocketVlmException.KvFull
import dev.pocketvlm.PocketVlmException.NoMemory
import dev.pocketvlm.PocketVlmException.NoSpace
import dev.pocketvlm.PocketVlmException.NotPortable

/** What can be done about a problem by one button. */
internal enum class Remedy { NONE, NEW_CHAT, TRY_AGAIN, OTHER_MODEL }

/** What went wrong and what to do about it, in words. */
internal class Problem(val text: String, val remedy: Remedy)

internal fun Context.problem(text: Int, remedy: Remedy = Remedy.NONE): Problem = Problem(getString(text), remedy)

internal fun Context.explain(error: Throwable): Problem {
    val size = { bytes: Long -> Formatter.formatShortFileSize(this, bytes) }
    val with = { text: Int, remedy: Remedy -> Problem(getString(text, error.message ?: error.javaClass.simpleName), remedy) }
    return when (val known = error as? PocketVlmException) {
        is NoMemory ->
            Problem(getString(R.string.problem_memory, size(known.needed), size(known.free)), Remedy.TRY_AGAIN)
        is NoSpace ->
            Problem(getString(R.string.problem_space, size(known.needed), size(known.free)), Remedy.TRY_AGAIN)
        is KvFull ->
            Problem(getString(R.string.problem_full, known.needed, known.capacity), Remedy.NEW_CHAT)
        is DownloadFailed ->
            if (known.retryable) with(R.string.problem_download, Remedy.TRY_AGAIN)
            else with(R.string.problem_download_final, Remedy.NONE)
        is BundleDamaged -> with(R.string.problem_damaged, Remedy.OTHER_MODEL)
        is BundleTooNew -> with(R.string.problem_too_new, Remedy.OTHER_MODEL)
        is NotPortable -> with(R.string.problem_not_portable, Remedy.OTHER_MODEL)
        is ImageUnusable -> with(R.string.problem_picture, Remedy.NONE)
        is ChatInvalid -> with(R.string.problem_chat, Remedy.NEW_CHAT)
        is EngineFailed -> with(R.string.problem_engine, Remedy.NEW_CHAT)
        is Closed -> Problem(getString(R.string.problem_closed), Remedy.OTHER_MODEL)
        null -> with(if (error is ZipUnusable) R.string.problem_zip else R.string.problem_other, Remedy.NONE)
    }
}
