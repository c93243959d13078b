package dev.pocketvlm.sample

import android.content.ClipboardManager
import android.content.Intent
import android.graphics.Bitmap
import android.graphics.BitmapFactory
import android.net.Uri
import android.provider.MediaStore
import android.text.Editable
import android.text.TextWatcher
import android.view.View
import android.widget.LinearLayout
import android.widget.TextView
import dev.pocketvlm.Encoding
import dev.pocketvlm.FinishReason
import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertNotSame
import org.junit.Assert.assertNull
import org.junit.Assert.assertSame
import org.junit.Assert.assertTrue
import org.junit.Test
import org.junit.runner.RunWith
import org.robolectric.RobolectricTestRunner
import org.robolectric.Shadows.shadowOf

/** Whole conversations with the built-in model. */
@RunWith(RobolectricTestRunner::class)
class ConversationTest {
    private val phone = Phone()

    private fun started(): Phone {
        push()
        return phone.start().apply { waitForModel() }
    }

    private fun rows() = phone.view<LinearLayout>(R.id.transcript).let { all -> List(all.childCount, all::getChildAt) }

    private fun said() = rows().map { it.find<TextView>(R.id.message_text).text.toString() }

    @Test
    fun `a picture is asked about, and the answer is Python's`() {
        started().choosePicture()
        val waiting = phone.conversation.pending.value.single()
        val whole = BitmapFactory.decodeFile(CASES.resolve("picture.png").path)
        assertEquals(listOf(whole.width, whole.height), listOf(waiting.picture.width, waiting.picture.height))
        assertEquals(waiting.attachment.tiling.columns * waiting.attachment.tiling.rows, waiting.attachment.tiling.areas.size)
        waitFor("the picture is encoded") { waiting.attachment.state.value is Encoding.Ready }
        idle()
        assertTrue(phone.text(R.id.attachment_state), phone.text(R.id.attachment_state).startsWith("Ready"))

        phone.ask(QUESTION)
        assertEquals("", phone.text(R.id.question))
        phone.waitForAnswer()
        assertEquals(listOf(QUESTION, ANSWER), said())
        assertEquals(FinishReason.STOP, phone.conversation.lastStats?.finishReason)
        assertTrue(phone.conversation.pending.value.isEmpty())
        assertFalse(phone.view<View>(R.id.attachment_scroll).isShown)

        rows()[1].find<View>(R.id.message_copy).performClick()
        val clipboard = phone.activity.getSystemService(ClipboardManager::class.java)
        assertEquals(ANSWER, clipboard?.primaryClip?.getItemAt(0)?.text.toString())

        rows()[1].find<View>(R.id.message_again).performClick()
        assertTrue(phone.conversation.isBusy)
        phone.waitForAnswer()
        assertEquals(2, rows().size)

        phone.menu(R.id.new_chat)
        assertEquals(0, rows().size)
        assertTrue(phone.view<View>(R.id.empty_chat).isShown)
    }

    @Test
    fun `an answer is shown as it is written, said in sentences, and stopped`() {
        started().choosePicture()
        val heard = ArrayList<String>()
        phone.view<TextView>(R.id.announcement).addTextChangedListener(object : TextWatcher {
            override fun beforeTextChanged(text: CharSequence?, start: Int, count: Int, after: Int) = Unit

            override fun onTextChanged(text: CharSequence?, start: Int, before: Int, count: Int) = Unit

            override fun afterTextChanged(text: Editable?) {
                heard.add(text.toString())
            }
        })
        phone.ask(QUESTION)
        val shown = LinkedHashSet<String>()
        waitFor("the answer is complete") {
            if (phone.conversation.isBusy) shown.add(said().last())
            !phone.conversation.isBusy
        }
        assertTrue("$shown", shown.all { ANSWER.startsWith(it) })
        assertEquals(ANSWER, heard.joinToString(" "))

        do { // until the answer is not faster than two clicks
            phone.view<TextView>(R.id.question).text = QUESTION
            repeat(2) { phone.view<View>(R.id.ask).performClick() }
            phone.waitForAnswer()
        } while (phone.conversation.lastStats?.finishReason == FinishReason.STOP)
        assertEquals(FinishReason.CANCELLED, phone.conversation.lastStats?.finishReason)
        assertEquals(phone.activity.getString(R.string.ended_cancelled), rows().last().find<TextView>(R.id.message_end).text)
        assertEquals(phone.activity.getString(R.string.ask), phone.view<View>(R.id.ask).contentDescription)
    }

    @Test
    fun `turning the phone keeps the conversation and an answer that is being written`() {
        started().choosePicture()
        phone.view<TextView>(R.id.question).text = "unsent"
        phone.change("+land")
        assertEquals("unsent", phone.text(R.id.question))
        assertEquals(1, phone.conversation.pending.value.size)
        val before = phone.activity
        val chat = phone.conversation
        phone.ask(QUESTION)
        phone.change("+port")
        assertNotSame(before, phone.activity)
        assertSame(chat, phone.conversation)
        phone.waitForAnswer()
        assertEquals(listOf(QUESTION, ANSWER), said())
        phone.change("+land")
        assertEquals(listOf(QUESTION, ANSWER), said())
    }

    @Test
    fun `the end of the process keeps the conversation, a new chat forgets it`() {
        started().choosePicture()
        phone.ask(QUESTION)
        phone.waitForAnswer()
        phone.controller.pause().stop()
        waitFor("the chat is kept") { phone.application.filesDir.resolve("chat/chat").isFile }

        endProcess()
        val again = Phone().start().apply { waitForModel() }
        assertEquals(listOf(QUESTION, ANSWER), again.conversation.chat.value.messages.value.map { it.text })
        assertTrue(checkNotNull(again.conversation.picturesOf(0, again.conversation.chat.value.messages.value[0])[0].bitmap).width > 100)
        again.ask(QUESTION)
        again.waitForAnswer()
        assertTrue("the KV cache was not kept", checkNotNull(again.conversation.lastStats).reusedTokens > 0)

        again.menu(R.id.new_chat)
        endProcess()
        assertTrue(Phone().start().apply { waitForModel() }.conversation.chat.value.messages.value.isEmpty())
    }

    private fun endProcess() {
        phone.holder.conversation?.model?.close()
        phone.application.onCreate()
    }

    @Test
    fun `the camera writes its picture through the provider, which lends nothing else`() {
        started().touch(R.id.take_picture)
        val asked = shadowOf(phone.activity).peekNextStartedActivityForResult().intent
        assertEquals(MediaStore.ACTION_IMAGE_CAPTURE, asked.action)
        val place = checkNotNull(asked.clipData).getItemAt(0).uri
        assertTrue(asked.flags and Intent.FLAG_GRANT_WRITE_URI_PERMISSION != 0)
        val resolver = phone.activity.contentResolver
        val taken = BitmapFactory.decodeFile(CASES.resolve("picture.png").path)
        checkNotNull(resolver.openOutputStream(place, "wt")).use { taken.compress(Bitmap.CompressFormat.JPEG, 95, it) }
        phone.answerWith(null)
        phone.waitForPicture()
        assertEquals(taken.width, phone.conversation.pending.value[0].picture.width)
        for (other in listOf("content://dev.pocketvlm.sample.camera/../chat/chat", "$place/x", "$place?x")) {
            assertTrue(other, runCatching { resolver.openInputStream(Uri.parse(other)) }.getOrNull() == null)
        }
    }

    @Test
    fun `what is no picture is refused in words, and a question that does not fit offers a new chat`() {
        started()
        val text = phone.application.cacheDir.resolve("picture.jpg").apply { writeText("no picture") }
        phone.touch(R.id.choose_picture)
        phone.answerWith(Intent().setData(Uri.fromFile(text)))
        waitFor("it is refused") { phone.view<View>(R.id.notice).isShown }
        assertTrue(phone.text(R.id.notice_text), "Choose another one" in phone.text(R.id.notice_text))
        phone.touch(R.id.notice_close)
        assertFalse(phone.view<View>(R.id.notice).isShown)

        val long = "word ".repeat(5000)
        phone.ask(long)
        waitFor("it is refused") { phone.view<View>(R.id.notice).isShown }
        assertEquals(long.trim(), phone.text(R.id.question))
        assertEquals(phone.activity.getString(R.string.new_chat), phone.text(R.id.notice_action))
        phone.touch(R.id.notice_action)
        assertNull(phone.holder.problem.value)
    }
}
