package dev.pocketvlm.runtime

import dev.pocketvlm.Case
import dev.pocketvlm.GenerationConfig
import dev.pocketvlm.PocketVlmException.ChatInvalid
import dev.pocketvlm.PocketVlmException.KvFull
import dev.pocketvlm.bundle.parseJson
import dev.pocketvlm.folder
import dev.pocketvlm.holdTo
import dev.pocketvlm.images.Rgb
import dev.pocketvlm.text.Message
import dev.pocketvlm.text.Span
import org.junit.Assert.assertEquals
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Test
import java.io.File

class AnswerTest {
    private val lines = folder("cases").resolve("questions.jsonl").readLines().map { Case(parseJson(it.toByteArray())) }

    @Test
    fun `answers are Python's token for token, and leave nothing in the home directory`() {
        for ((bundle, cases) in lines.groupBy { it.text("bundle") }) {
            LoadedModel.open(File(bundle), threads = 1).use { model ->
                holdTo(cases, "ids", "text", "finish_reason") { case ->
                    val config = GenerationConfig(
                        maxNewTokens = case.int("most"),
                        temperature = case.double("temperature"),
                        seed = case.int("seed").toULong(),
                        stop = case.list("stop").map { it as String },
                    )
                    val answer = model.answer(listOf(message(case)), listOf(picture(case)), config)
                    listOf(answer.tokenIds, answer.text, answer.finishReason)
                }
            }
        }
        // ONNX Runtime's telemetry would have left a database and a device id there.
        assertTrue(File(checkNotNull(System.getenv("HOME"))).walk().none { it.isFile })
    }

    @Test
    fun `a prompt that does not fit, or says nothing, is refused`() {
        LoadedModel.open(File(lines[0].text("bundle")), threads = 1).use { model ->
            val long = Message("user", listOf(Span.PeopleText("word ".repeat(5000))))
            assertTrue(assertThrows(KvFull::class.java) { model.answer(listOf(long), emptyList()) }.needed > 5000)
            assertThrows(ChatInvalid::class.java) { model.answer(emptyList(), emptyList()) }
            val short = Message("user", listOf(Span.PeopleText("Hello")))
            assertEquals(1, model.answer(listOf(short), emptyList(), GenerationConfig(maxNewTokens = 1)).tokenIds.size)
        }
    }

    private fun message(case: Case) = Message("user", listOf(Span.Image(0), Span.PeopleText(case.text("question"))))

    private fun picture(case: Case) = Rgb(case.int("width"), case.int("height"), File(case.text("file")).readBytes())
}
