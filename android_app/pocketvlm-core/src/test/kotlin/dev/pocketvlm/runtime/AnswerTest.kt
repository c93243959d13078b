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

    @Test
    fun `a conversation computes only what is new, as Python's does`() {
        val turns = folder("cases").resolve("turns.jsonl").readLines().map { Case(parseJson(it.toByteArray())) }
        LoadedModel.open(File(turns[0].text("bundle")), threads = 1).use { model ->
            val messages = ArrayList<Message>()
            val images = ArrayList<Rgb>()
            holdTo(turns, "ids", "text", "reused") { case ->
                if (case["first"] == true) {
                    model.reset()
                    messages.clear()
                    images.clear()
                }
                val content = ArrayList<Span>()
                if (case["file"] != null) {
                    content.add(Span.Image(images.size))
                    images.add(picture(case))
                }
                messages.add(Message("user", content + Span.PeopleText(case.text("question"))))
                val answer = model.answer(messages, images, GenerationConfig(maxNewTokens = case.int("most")))
                messages.add(Message("assistant", listOf(Span.PeopleText(answer.text))))
                listOf(answer.tokenIds, answer.text, answer.reused)
            }
        }
    }

    @Test
    fun `an answer that is cancelled ends within a step, and the next one is whole`() {
        val case = lines[0]
        val config = { GenerationConfig(maxNewTokens = case.int("most"), stop = case.list("stop").map { it as String }) }
        LoadedModel.open(File(case.text("bundle")), threads = 1).use { model ->
            val early = Interrupt().also { it.cancel() }
            val none = model.answer(listOf(message(case)), listOf(picture(case)), config(), early)
            assertEquals("cancelled" to emptyList<Int>(), none.finishReason to none.tokenIds)
            var cancelled = 0
            for (delay in 0L until 120 step 5) {
                val interrupt = Interrupt()
                val thread = Thread {
                    Thread.sleep(delay)
                    interrupt.cancel()
                }
                thread.start()
                val answer = model.answer(listOf(message(case)), listOf(picture(case)), config(), interrupt)
                thread.join()
                if (answer.finishReason == "cancelled") cancelled++
                assertEquals(case.ints("ids").take(answer.tokenIds.size), answer.tokenIds)
            }
            assertTrue("$cancelled", cancelled > 0)
            assertEquals(case.ints("ids"), model.answer(listOf(message(case)), listOf(picture(case)), config()).tokenIds)
        }
    }

    private fun message(case: Case) = Message("user", listOf(Span.Image(0), Span.PeopleText(case.text("question"))))

    private fun picture(case: Case) = Rgb(case.int("width"), case.int("height"), File(case.text("file")).readBytes())
}
